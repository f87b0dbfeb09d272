//! The services that an image names in `/etc/mvm/workload.json`: in order, and again after their end.
//!
//! Each has a thread that waits for its end. A service starts after those that it names, as soon as
//! their programs run; what they do then is not known here.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mvm_proto::workload::{self, Restart};
use mvm_proto::{Exit, FailureKind};

use crate::agent::{Agent, Service};
use crate::console::say;
use crate::failure::{Context, Outcome, failure};
use crate::process::{self, Started};
use crate::serve::spawn;
use crate::{exec, users};

/// The file with the services, in the directory of the image's settings.
pub(crate) const FILE: &str = "workload.json";

/// How long after its end a service is started again.
const PAUSE: Duration = Duration::from_secs(1);

/// The services that the image names, none when it has no such file.
pub(crate) fn read(agent: &Agent) -> Outcome<Vec<workload::Service>> {
    let path = agent.places.image.join(FILE);
    match fs::read(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        read => {
            let act = format!("cannot read {}", path.display());
            let bytes = read.because(&act)?;
            let said: workload::Workload = serde_json::from_slice(&bytes).because(act)?;
            Ok(said.services)
        }
    }
}

/// Starts services; what they were asked to do when they end happens in the background.
pub(crate) fn start(agent: &Arc<Agent>, services: Vec<workload::Service>) {
    let running = Arc::new(AtomicUsize::new(services.len()));
    agent.set_service(Service::Running);
    for service in in_order(services) {
        let started = launch(agent, &service);
        let (agent, running) = (Arc::clone(agent), Arc::clone(&running));
        spawn("service", move || {
            let exit = keep(&agent, &service, started, PAUSE);
            if running.fetch_sub(1, Ordering::SeqCst) == 1 {
                agent.set_service(Service::Ended(exit));
            }
        });
    }
}

/// Waits for the end of a service, starts it again as long as it asks for that, and gives the last end.
fn keep(
    agent: &Agent,
    service: &workload::Service,
    mut started: Outcome<Started>,
    pause: Duration,
) -> Exit {
    let name = &service.name;
    loop {
        let exit = match started {
            Ok(running) => process::wait(running.pid, None).unwrap_or(Exit::Code(255)),
            Err(error) => {
                say(&format!("the service {name}: {}", error.message));
                Exit::Code(shell_code(error.kind))
            }
        };
        say(&format!("the service {name} ended with code {}", exit.shell_code()));
        let is_over = match service.restart {
            Restart::Never => true,
            Restart::OnFailure => exit == Exit::Code(0),
            Restart::Always => false,
        };
        if is_over || agent.is_ending() {
            return exit;
        }
        std::thread::sleep(pause);
        started = launch(agent, service);
    }
}

/// What a shell says of a program that did not start.
fn shell_code(kind: FailureKind) -> i32 {
    match kind {
        FailureKind::NotFound => 127,
        FailureKind::NotExecutable => 126,
        FailureKind::Unsupported
        | FailureKind::Invalid
        | FailureKind::Denied
        | FailureKind::Busy
        | FailureKind::Timeout
        | FailureKind::Failed
        | FailureKind::Unknown => 125,
    }
}

fn launch(agent: &Agent, service: &workload::Service) -> Outcome<Started> {
    if agent.is_ending() {
        return failure(FailureKind::Busy, "the machine goes down");
    }
    process::start(&mut command(agent, service)?).because("cannot start its program")
}

fn command(agent: &Agent, service: &workload::Service) -> Outcome<Command> {
    let Some((name, arguments)) = service.argv.split_first() else {
        return failure(FailureKind::Invalid, "it has no program");
    };
    let who = service.user.as_deref().unwrap_or("0");
    let user = users::find(who)?;
    let cwd = service.cwd.as_deref().unwrap_or_else(|| user.existing_home());
    fs::create_dir_all(cwd).because(format!("cannot make {cwd}"))?;
    let path = service.env.get("PATH").map_or(exec::DEFAULT_PATH, String::as_str);
    let program = users::find_program(name, path, Path::new(cwd))?;
    let mut command = exec::command_of(agent, &program.display().to_string(), who)?;
    command.arg0(name).args(arguments).envs(&service.env).current_dir(cwd);
    Ok(command)
}

/// The services, each after those that it names; of a ring, and of names that nobody has, only the
/// order in which they are written counts.
fn in_order(services: Vec<workload::Service>) -> Vec<workload::Service> {
    let names: BTreeSet<String> = services.iter().map(|one| one.name.clone()).collect();
    let mut placed = BTreeSet::new();
    let mut waiting = services;
    let mut ordered = Vec::new();
    while !waiting.is_empty() {
        let is_free = |one: &workload::Service| {
            one.after.iter().all(|name| placed.contains(name) || !names.contains(name))
        };
        let next = waiting.iter().position(is_free).unwrap_or(0);
        let service = waiting.remove(next);
        placed.insert(service.name.clone());
        ordered.push(service);
    }
    ordered
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
    use super::*;
    use crate::agent::Places;

    fn service(name: &str, script: &str) -> workload::Service {
        workload::Service {
            name: name.to_owned(),
            argv: ["sh", "-c", script].map(str::to_owned).to_vec(),
            env: std::iter::once(("GREETING".to_owned(), "hello".to_owned())).collect(),
            user: None,
            cwd: None,
            after: Vec::new(),
            restart: Restart::Never,
        }
    }

    fn after(name: &str, after: &[&str]) -> workload::Service {
        let after = after.iter().map(ToString::to_string).collect();
        workload::Service { after, ..service(name, "") }
    }

    fn agent(directory: &Path) -> Agent {
        let places = Places {
            run: directory.join("run"),
            workload: directory.join("no-cgroup"),
            image: directory.to_owned(),
            ..Places::of_a_guest()
        };
        Agent::new(places, false)
    }

    #[test]
    fn services_start_after_those_they_name_and_a_ring_does_not_hang() {
        let order = |all: Vec<workload::Service>| {
            in_order(all).into_iter().map(|one| one.name).collect::<Vec<_>>()
        };
        let all = vec![after("web", &["db", "gone"]), after("log", &[]), after("db", &["log"])];
        assert_eq!(order(all), ["log", "db", "web"]);
        assert_eq!(order(vec![after("a", &["b"]), after("b", &["a"])]), ["a", "b"]);
    }

    #[test]
    fn a_service_has_its_environment_its_directory_and_its_arguments() {
        let directory = tempfile::tempdir().unwrap();
        let agent = agent(directory.path());
        let place = directory.path().join("made/for/it");
        let mut one = service("a", "echo $GREETING $0 $1 > out");
        one.argv.extend(["zero", "one"].map(str::to_owned));
        one.cwd = Some(place.display().to_string());
        let exit = keep(&agent, &one, launch(&agent, &one), Duration::ZERO);
        assert_eq!(exit, Exit::Code(0));
        assert_eq!(fs::read_to_string(place.join("out")).unwrap(), "hello zero one\n");
    }

    #[test]
    fn a_service_that_fails_is_started_until_it_succeeds() {
        let directory = tempfile::tempdir().unwrap();
        let agent = agent(directory.path());
        let mut one = service("a", "echo x >> log; [ $(wc -l < log) = 3 ] || exit 7");
        one.cwd = Some(directory.path().display().to_string());
        let exit = keep(&agent, &one, launch(&agent, &one), Duration::ZERO);
        assert_eq!(exit, Exit::Code(7), "what asks for nothing runs once");
        one.restart = Restart::OnFailure;
        let exit = keep(&agent, &one, launch(&agent, &one), Duration::ZERO);
        assert_eq!(exit, Exit::Code(0));
        assert_eq!(fs::read_to_string(directory.path().join("log")).unwrap(), "x\nx\nx\n");
    }

    #[test]
    fn nothing_is_started_again_while_the_machine_goes_down() {
        let directory = tempfile::tempdir().unwrap();
        let agent = agent(directory.path());
        let one = workload::Service { restart: Restart::Always, ..service("a", "exit 0") };
        let started = launch(&agent, &one);
        agent.set_ending();
        assert_eq!(keep(&agent, &one, started, Duration::ZERO), Exit::Code(0));
        assert!(launch(&agent, &one).is_err());
    }

    #[test]
    fn a_program_that_is_not_there_ends_with_the_code_of_a_shell() {
        let directory = tempfile::tempdir().unwrap();
        let agent = agent(directory.path());
        let mut one = service("a", "");
        one.argv = vec!["no-such-program".to_owned()];
        assert_eq!(keep(&agent, &one, launch(&agent, &one), Duration::ZERO), Exit::Code(127));
    }

    #[test]
    fn an_image_without_the_file_has_no_services_and_a_broken_one_is_told() {
        let directory = tempfile::tempdir().unwrap();
        let agent = agent(directory.path());
        assert_eq!(read(&agent).unwrap(), []);
        fs::write(directory.path().join(FILE), r#"{"services":[{"name":"a","argv":["x"]}]}"#)
            .unwrap();
        assert_eq!(read(&agent).unwrap().len(), 1);
        fs::write(directory.path().join(FILE), "{").unwrap();
        assert!(read(&agent).is_err());
    }
}
