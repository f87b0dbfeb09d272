//! After a restore: clock, entropy, generation, network, secrets.
//!
//! The order matters: entropy before anything that might draw from it, and all of it before the
//! workload thaws, which is a request of its own. This module refuses to know snapshots.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use mvm_proto::FailureKind;
use mvm_proto::message::Wake;

use crate::agent::Agent;
use crate::console::say;
use crate::failure::{Context, Outcome};
use crate::{drives, kernel, workload};

/// The file with the generation: eight bytes, little-endian, always the same inode, so that
/// programs may map it once and watch it (SPEC §8).
const GENERATION_FILE: &str = "generation";

/// Takes on the present.
pub(crate) fn wake(agent: &Agent, wake: &Wake) -> Outcome<String> {
    let _one_at_a_time = agent.change();
    let random =
        File::options().write(true).open("/dev/urandom").because("cannot open the random pool")?;
    kernel::add_entropy(&random, wake.entropy.0).because("cannot add entropy")?;
    kernel::set_wall_clock(wake.wall_clock_ns).because("cannot set the clock")?;
    raise_generation(agent, wake.generation)?;
    if let Some(network) = &wake.network {
        agent.take_on(network)?;
    }
    workload::end_drain(agent);
    if wake.secrets_epoch <= agent.secrets_epoch() {
        return Ok("awake".to_owned());
    }
    match drives::read_secrets(agent, Some(wake.secrets_epoch)) {
        Ok(()) => Ok("awake, with new secrets".to_owned()),
        // A guest that was started without the drive is not lost for it.
        Err(missing) if missing.kind == FailureKind::NotFound => {
            say("there are new secrets and no drive to read them from");
            Ok("awake, without a secrets drive".to_owned())
        }
        Err(error) => Err(error),
    }
}

/// Raises the number in the generation file; it never goes down.
pub(crate) fn raise_generation(agent: &Agent, generation: u64) -> Outcome<()> {
    let number = agent.raise_generation(generation);
    let path = agent.places.run.join(GENERATION_FILE);
    let act = "cannot write the generation";
    let mut options = File::options();
    let file = options.write(true).create(true).truncate(false).mode(0o644).open(path);
    let mut file = file.because(act)?;
    file.write_all_at(&number.to_le_bytes(), 0).because(act)?;
    file.flush().because(act)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;
    use crate::agent::Places;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn the_generation_file_keeps_its_inode_and_never_goes_down() {
        let directory = tempfile::tempdir().unwrap();
        let places = Places { run: directory.path().to_owned(), ..Places::of_a_guest() };
        let agent = Agent::new(places, false);
        let path = directory.path().join(GENERATION_FILE);
        raise_generation(&agent, 7).unwrap();
        let inode = std::fs::metadata(&path).unwrap().ino();
        raise_generation(&agent, 3).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), 7u64.to_le_bytes());
        raise_generation(&agent, 300).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), 300u64.to_le_bytes());
        assert_eq!(std::fs::metadata(&path).unwrap().ino(), inode);
    }
}
