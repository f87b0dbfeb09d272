//! Examples in the long help of the verbs that are used most.

pub(super) const UPGRADE: &str = "Examples:
  mvm upgrade --check
  mvm upgrade
  mvm upgrade --version 0.2.0
  mvm upgrade --rollback";

pub(super) const BUILD: &str = "Examples:
  mvm build
  mvm build ./my-image --output built.elf";

pub(super) const IMAGE_EXPORT: &str = "Examples:
  mvm image export acme/workers --output workers.elf
  mvm image export default --output default.elf";

pub(super) const START: &str = "Examples:
  mvm start
  mvm start ./my-image --cpus 4 --memory 2048
  mvm start --config runtime.toml --volume /data:/mnt/data:10G";

pub(super) const RUN: &str = "Examples:
  mvm run -- uname -sr
  mvm run --image oci:registry.example.com/team/app:1.2 --memory 512 -- app --version
  mvm run --flake ./hello -- hello";

pub(super) const TENANT_CREATE: &str = "Examples:
  mvm tenant create acme
  mvm tenant create acme --net-id 3 --subnet 10.240.3.0/24 --max-vcpus 16 --max-running 8";

pub(super) const POOL_CREATE: &str = "Examples:
  mvm pool create acme/workers --image default --cpus 1 --mem 128
  mvm pool create acme/workers --flake github:org/app --profile minimal --cpus 2 --mem 1024";

pub(super) const POOL_BUILD: &str = "Examples:
  mvm pool build acme/workers
  mvm pool build acme/workers --timeout 3600 --force";

pub(super) const POOL_SCALE: &str = "Examples:
  mvm pool scale acme/workers --running 5 --warm 2 --sleeping 3
  mvm pool scale acme/workers --running 0";

pub(super) const POOL_UPDATE: &str = "Examples:
  mvm pool update acme/workers --flake github:org/app?rev=def456
  mvm pool update acme/workers --mem 2048 --drain-timeout 60
  mvm pool update acme/workers --readiness http:80/health";

pub(super) const POOL_ROLLBACK: &str = "Examples:
  mvm pool rollback acme/workers --revision 2
  mvm pool rollback acme/workers --revision 3fa9c1";

pub(super) const POOL_ROLL: &str = "\
An instance that runs or is Warm on another build is stopped and started in its place, the oldest first: it
keeps its id, address and data disk. It is ready when its agent answers, no program of the image failed, and
it shows what the pool's readiness asks for. When one does not become ready, dies or does not start, the
former build is current again and those that were replaced return to it. Instances that sleep keep the build
that is in their memory until they are stopped, or rolled while they run. Interrupted, the same command goes
on.

Examples:
  mvm pool build acme/workers && mvm pool roll acme/workers
  mvm --dry-run pool roll acme/workers
  mvm pool roll acme/workers --batch 2 --timeout 60 --soak 10";

pub(super) const GC: &str = "Examples:
  mvm --dry-run pool gc acme/workers
  mvm node gc --keep 2";

pub(super) const TEMPLATE: &str = "Examples:
  mvm template init web && mvm template create web/template.toml
  mvm template build web
  mvm pool create acme/web --template web:small
  mvm template push web --to s3://bucket/templates";

pub(super) const INSTANCE_LIST: &str = "Examples:
  mvm instance list
  mvm instance list acme/workers
  mvm instance list --tenant acme --pool workers --json";

pub(super) const INSTANCE_EXEC: &str = "Examples:
  mvm instance exec acme/workers/i-a3f7b2c1 -- uname -r
  mvm instance exec -it acme/workers/i-a3f7b2c1 -- top";

pub(super) const INSTANCE_SSH: &str = "Examples:
  mvm instance ssh acme/workers/i-a3f7b2c1
  mvm instance ssh -l nobody acme/workers/i-a3f7b2c1 -- 'cd /tmp && ls'";

pub(super) const INSTANCE_CP: &str = "Examples:
  mvm instance cp ./site acme/workers/i-a3f7b2c1:/srv/
  mvm instance cp acme/workers/i-a3f7b2c1:/var/log/app.log .
  mvm instance cp acme/workers/i-a3f7b2c1:/srv - | tar -t";

pub(super) const INSTANCE_STATS: &str = "Examples:
  mvm instance stats acme/workers/i-a3f7b2c1
  mvm instance stats acme/workers/i-a3f7b2c1 --watch 5 --json";

pub(super) const AGENT_SERVE: &str = "Examples:
  mvm agent serve --desired desired.json
  mvm agent serve --desired desired.json --interval-secs 60 --tick-secs 5
  mvm agent serve --listen 192.0.2.7:4433";
pub(super) const AGENT_RECONCILE: &str = "Examples:
  mvm agent reconcile --desired desired.json
  mvm --dry-run agent reconcile --desired desired.json --prune
  mvm agent desired | mvm agent reconcile --desired -";

pub(super) const NEW: &str = "Examples:
  mvm new openclaw alice --image default
  mvm new openclaw alice --config deploy.toml
  mvm new openclaw alice --net-id 5 --subnet 10.240.5.0/24";

pub(super) const DEPLOY: &str = "Examples:
  mvm deploy deployment.toml
  mvm deploy deployment.toml --watch --interval 60";

pub(super) const CERTS_INIT: &str = "Examples:
  mvm agent certs init
  mvm agent certs init --ca ca.pem
  mvm agent certs init --ca ca.pem --role coordinator";

pub(super) const COORDINATOR_PUSH: &str = "Examples:
  mvm coordinator push --desired myapp.json --node 192.0.2.7:4433
  mvm coordinator sign --desired myapp.json --node-id node-5f3a9c01 > signed.json
  mvm coordinator push --envelope signed.json --node 192.0.2.7:4433";

pub(super) const COORDINATOR_TOKEN: &str = "Examples:
  mvm coordinator token
  mvm coordinator token --valid 15m --ca fleet.pem

On the machine:  mvm add host --token TOKEN, then mvm agent serve
Here:            mvm coordinator approve --node HOST:PORT --token TOKEN";

pub(super) const COORDINATOR_APPROVE: &str = "Examples:
  mvm coordinator approve --node 192.0.2.7:4433 --token TOKEN
  mvm coordinator approve --request node.csr --out node.pem --ca fleet.pem";

pub(super) const COORDINATOR_REVOKE: &str = "Examples:
  mvm coordinator revoke node-5f3a9c01 --node 192.0.2.7:4433 192.0.2.8:4433
  mvm coordinator revoke --node 192.0.2.9:4433";

pub(super) const ADD_HOST: &str = "Examples:
  mvm add host
  mvm add host --token TOKEN --signing-key coordinator.pub --production
  mvm add host --ca ca.crt --signing-key coordinator.pub --production
  mvm --dry-run add host --ca ca.crt";
