#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::io::Write;

use serde_json::{Value, json};
use tar::EntryType as Kind;

use super::*;
use crate::assemble::{Answered, Arrival, Fittings};
use crate::fetch::registry::tests::{Guard, Server, fetcher};
use crate::store::ImageStore;
use crate::untar::tests::tar;

struct World {
    base: tempfile::TempDir,
    store: ImageStore,
    fetcher: Fetcher,
    rules: RegistryRules,
}

fn world() -> World {
    let base = tempfile::tempdir().unwrap();
    let mut agent = b"\x7fELF\x02\x01".to_vec();
    agent.resize(0x40, 0);
    fs::write(base.path().join("agent"), agent).unwrap();
    let store = ImageStore::open(&base.path().join("images")).unwrap();
    let fetcher = fetcher(base.path());
    World { base, store, fetcher, rules: RegistryRules::default() }
}

fn hash(bytes: &[u8]) -> ContentHash {
    ContentHash::of(bytes)
}

fn descriptor(bytes: &[u8]) -> Value {
    json!({"mediaType": "x", "digest": format!("sha256:{}", hash(bytes)), "size": bytes.len()})
}

/// An image of three layers: gzip, zstd and plain; the last hides a file of the first.
struct Sample {
    layers: Vec<Vec<u8>>,
    plain: Vec<Vec<u8>>,
    config: Vec<u8>,
    manifest: Vec<u8>,
}

fn sample() -> Sample {
    let plain = vec![
        tar(&[("etc/gone", Kind::Regular, "1"), ("etc/kept", Kind::Regular, "1")]),
        tar(&[("srv/app", Kind::Regular, "app")]),
        tar(&[("etc/.wh.gone", Kind::Regular, "")]),
    ];
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let [first, second, third] = plain.as_slice() else { unreachable!() };
    gzip.write_all(first).unwrap();
    let layers =
        vec![gzip.finish().unwrap(), zstd::encode_all(&second[..], 1).unwrap(), third.clone()];
    let ids: Vec<String> = plain.iter().map(|layer| format!("sha256:{}", hash(layer))).collect();
    let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": ids},
        "config": {"Cmd": ["/srv/app"]}});
    let config = serde_json::to_vec(&config).unwrap();
    let all: Vec<Value> = layers.iter().map(|layer| descriptor(layer)).collect();
    let manifest = serde_json::to_vec(
        &json!({"schemaVersion": 2, "config": descriptor(&config), "layers": all}),
    )
    .unwrap();
    Sample { layers, plain, config, manifest }
}

impl World {
    fn assembly(&self) -> Assembly<'_> {
        let fittings = Fittings {
            agent: self.base.path().join("agent"),
            agent_protocol: 1,
            arch: Arch::X86_64,
        };
        Assembly::new(&fittings, &self.store, Answered::Used).unwrap()
    }

    /// An image that stands for the default one.
    fn kernel(&self) -> Image {
        let assembly = self.assembly();
        let request = assembly.request(&["base"]);
        let order = Order {
            name: "base",
            request,
            inputs: Vec::new(),
            limits: LIMITS,
            arrival: Arrival::Given,
        };
        let kernel = KernelFiles::of_file(b"\x7fELFkernel").unwrap();
        let contents = Contents { kernel, workload: None, notes: Vec::new() };
        assembly.make(order, &|_| (), |_| Ok::<_, AssembleError>(contents)).unwrap()
    }

    /// The image, and whether it had to be made.
    fn build(&self, image: &OciImage<'_>) -> Result<(Image, bool), OciError> {
        let (assembly, base) = (self.assembly(), self.kernel());
        match image.resolve(&assembly, &base, None)? {
            Resolved::Made(image) => Ok((*image, false)),
            Resolved::New(found) => Ok((found.make(&assembly, &base, &|_| ())?, true)),
        }
    }

    fn pull(&self, reference: &OciRef) -> Result<(Image, bool), OciError> {
        let (rules, fetcher) = (&self.rules, &self.fetcher);
        self.build(&OciImage::Registry { reference, rules, fetcher })
    }

    fn archive(&self, members: &[(&str, &[u8])]) -> PathBuf {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, bytes) in members {
            let mut header = tar::Header::new_gnu();
            header.set_size(bytes.len() as u64);
            header.set_mode(0o644);
            header.set_cksum();
            builder.append_data(&mut header, name, *bytes).unwrap();
        }
        let path = self.base.path().join("archive.tar");
        fs::write(&path, builder.into_inner().unwrap()).unwrap();
        path
    }
}

fn serve(server: &Server, sample: &Sample) {
    server.put("/v2/a/manifests/1", sample.manifest.clone());
    let digest = hash(&sample.manifest);
    server.put(&format!("/v2/a/manifests/sha256:{digest}"), sample.manifest.clone());
    for blob in sample.layers.iter().chain([&sample.config]) {
        server.put(&format!("/v2/a/blobs/sha256:{}", hash(blob)), blob.clone());
    }
}

/// The paths of an image's root.
fn root(image: &Image) -> Vec<String> {
    let file = std::io::BufReader::new(fs::File::open(image.root()).unwrap());
    let reader = backhand::FilesystemReader::from_reader(file).unwrap();
    reader.files().map(|node| node.fullpath.display().to_string()).collect()
}

fn holds_the_sample(image: &Image) {
    image.verify().unwrap();
    let paths = root(image);
    for path in ["/etc/kept", "/srv/app", "/sbin/mvm-guest", "/etc/mvm/workload.json"] {
        assert!(paths.iter().any(|found| found == path), "{path}");
    }
    assert!(!paths.iter().any(|path| path.contains("gone") || path.contains(".wh.")), "{paths:?}");
}

#[test]
fn a_tag_is_resolved_at_each_build_and_the_same_digest_is_not_unpacked_again() {
    let (world, server, sample) = (world(), Server::start(Guard::Nobody), sample());
    serve(&server, &sample);
    let (made, is_new) = world.pull(&server.reference("a:1")).unwrap();
    assert!(is_new);
    holds_the_sample(&made);
    let digest = hash(&sample.manifest);
    let is_input = |input: &Input| input.kind == InputKind::OciImage && input.sha256 == digest;
    assert!(made.manifest.created_from.iter().any(is_input));
    assert_eq!(world.pull(&server.reference("a:1")).unwrap(), (made.clone(), false));
    let before = server.asked().len();
    let pinned = server.reference(&format!("a@sha256:{digest}"));
    assert_eq!(world.pull(&pinned).unwrap(), (made, false));
    assert_eq!(server.asked().len(), before, "what is named by its digest needs no registry");
    server.put("/v2/a/manifests/1", *b"{}");
    assert!(matches!(world.pull(&server.reference("a:1")), Err(OciError::Manifest)));
}

#[test]
fn an_index_leads_to_the_image_of_this_machine() {
    let (world, server, sample) = (world(), Server::start(Guard::Nobody), sample());
    serve(&server, &sample);
    let mut ours = descriptor(&sample.manifest);
    let mut other = descriptor(b"other");
    for (value, name) in [(&mut ours, "amd64"), (&mut other, "arm64")] {
        let platform = json!({"os": "linux", "architecture": name});
        value.as_object_mut().unwrap().insert("platform".to_owned(), platform);
    }
    let index = serde_json::to_vec(&json!({"manifests": [other, ours]})).unwrap();
    server.put("/v2/a/manifests/many", index);
    let (made, is_new) = world.pull(&server.reference("a:many")).unwrap();
    assert!(is_new);
    holds_the_sample(&made);
    assert_eq!(world.pull(&server.reference("a:1")).unwrap().0, made);
}

#[test]
fn a_layer_with_other_bytes_leaves_no_image() {
    let (world, server, sample) = (world(), Server::start(Guard::Nobody), sample());
    serve(&server, &sample);
    let layer = sample.layers.first().unwrap();
    server.put(&format!("/v2/a/blobs/sha256:{}", hash(layer)), vec![0; layer.len()]);
    let before = world.kernel();
    let error = world.pull(&server.reference("a:1")).unwrap_err();
    assert!(matches!(error, OciError::Registry(RegistryError::Http { .. })), "{error}");
    assert_eq!(world.store.list().unwrap(), [before]);
}

#[test]
fn both_kinds_of_archive_are_read() {
    let (world, sample) = (world(), sample());
    let blob = |bytes: &[u8]| format!("blobs/sha256/{}", hash(bytes));
    let index = serde_json::to_vec(&json!({"manifests": [descriptor(&sample.manifest)]})).unwrap();
    let mut members: Vec<(String, &[u8])> =
        vec![("oci-layout".to_owned(), b"{}"), ("index.json".to_owned(), &index)];
    for bytes in sample.layers.iter().chain([&sample.config, &sample.manifest]) {
        members.push((blob(bytes), bytes));
    }
    let named: Vec<(&str, &[u8])> =
        members.iter().map(|(name, bytes)| (name.as_str(), *bytes)).collect();
    let path = world.archive(&named);
    let (made, is_new) = world.build(&OciImage::Archive(&path)).unwrap();
    assert!(is_new);
    holds_the_sample(&made);
    assert_eq!(world.build(&OciImage::Archive(&path)).unwrap(), (made, false));

    let config = format!("{}.json", hash(&sample.config));
    let saved = json!([{"Config": config, "RepoTags": ["a:1"], "Layers": ["1/layer.tar", "2/layer.tar", "3"]}]);
    let saved = serde_json::to_vec(&saved).unwrap();
    let [first, second, third] = sample.plain.as_slice() else { unreachable!() };
    let members: [(&str, &[u8]); 5] = [
        ("manifest.json", &saved),
        (&config, &sample.config),
        ("1/layer.tar", first),
        ("2/layer.tar", second),
        ("3", third),
    ];
    let path = world.archive(&members);
    let (made, is_new) = world.build(&OciImage::Archive(&path)).unwrap();
    assert!(is_new);
    holds_the_sample(&made);

    let broken = tar(&[("srv/evil", Kind::Regular, "x")]);
    let mut members = members;
    *members.last_mut().unwrap() = ("3", &broken);
    fs::remove_dir_all(&made.directory).unwrap();
    let path = world.archive(&members);
    let error = world.build(&OciImage::Archive(&path)).unwrap_err();
    assert!(matches!(error, OciError::WrongDigest { .. }), "{error}");
    let path = world.archive(&[("x", b"y")]);
    assert!(matches!(world.build(&OciImage::Archive(&path)), Err(OciError::NoImage(_))));
}
