//! A whole command line into the machine for microVMs, and what comes back.
//!
//! Which arguments name files of the caller is told by their types alone: [`InputPath`] and
//! [`OutputPath`], also as one side of a copy, and [`ImagePath`]. A test walks all commands and refuses paths of any other type.

use std::{
    any::TypeId,
    ffi::OsString,
    io::{self, IsTerminal},
    process::ExitCode,
    sync::{Arc, Mutex, PoisonError},
};

use clap::{ArgMatches, CommandFactory};
use mvm::{
    Config, Error, ErrorKind, ExecStreams,
    dev::VolumeAsk,
    forward::{self, Act, Carried, ImagePath, InputPath, OutputPath, Request, Way},
    provider::Provider,
};

use crate::{
    args::{Cli, CopySide, Global},
    render::progress::Reporter,
    terminal::{self, Flushed},
};

/// Runs this command line in the machine.
pub(crate) fn command(
    global: &Global,
    config: &Config,
    matches: &ArgMatches,
    words: Vec<OsString>,
    provider: &dyn Provider,
) -> Result<ExitCode, Error> {
    let words = words.into_iter().map(OsString::into_string).collect::<Result<_, _>>();
    let words = words.map_err(|word| {
        let message = format!("the argument {} is not UTF-8", word.to_string_lossy());
        Error::new(ErrorKind::Invalid, message)
    })?;
    run(global, config, matches, Act::Run(words), provider)
}

/// Opens a shell in the machine.
pub(crate) fn shell(
    global: &Global,
    config: &Config,
    matches: &ArgMatches,
    provider: &dyn Provider,
) -> Result<ExitCode, Error> {
    run(global, config, matches, Act::Shell, provider)
}

/// What a command prints in the machine, which runs; nobody speaks to it.
pub(crate) fn printed(
    config: &Config,
    words: &[&str],
    provider: &dyn Provider,
) -> Result<Vec<u8>, Error> {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    let request = Request { act: Act::Run(words), env: config.travelling(), ..Request::plain() };
    let printed = Printed::default();
    let (_, control) = std::sync::mpsc::channel();
    let streams = ExecStreams {
        stdin: Box::new(io::empty()),
        stdout: Box::new(printed.clone()),
        stderr: Box::new(io::sink()),
        control,
    };
    let ended = forward::run(provider.connect()?, &request, streams)?;
    if ended.code != 0 {
        let message = format!("the mvm in the machine ended with {}", ended.code);
        return Err(Error::new(ErrorKind::Failed, message));
    }
    Ok(printed.0.lock().unwrap_or_else(PoisonError::into_inner).clone())
}

/// What was printed so far.
#[derive(Clone, Default)]
struct Printed(Arc<Mutex<Vec<u8>>>);

impl io::Write for Printed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn run(
    global: &Global,
    config: &Config,
    matches: &ArgMatches,
    act: Act,
    provider: &dyn Provider,
) -> Result<ExitCode, Error> {
    let mut carried = Vec::new();
    carry(&Cli::command(), matches, &mut carried)?;
    let terminals =
        [io::stdin().is_terminal(), io::stdout().is_terminal(), io::stderr().is_terminal()];
    let [has_keyboard, ..] = terminals;
    let takes_input = has_keyboard || act == Act::Shell || reads_input(matches, &carried);
    carried.retain(|file| file.typed != "-");
    let size = terminal::size();
    let mut env = config.travelling();
    env.entry("TERM".to_owned()).or_insert(size.term);
    provider.ensure_started(&Reporter::of(global))?;
    let link = provider.connect()?;
    let plain = Request::plain();
    let request = Request {
        act,
        env,
        terminals,
        size: (size.rows, size.cols),
        takes_input,
        carried,
        ..plain
    };
    let streams = ExecStreams {
        stdin: Box::new(io::stdin()),
        stdout: Box::new(Flushed(io::stdout())),
        stderr: Box::new(io::stderr()),
        control: terminal::control(),
    };
    let raw = if has_keyboard { terminal::RawMode::enter() } else { None };
    let ended = forward::run(link, &request, streams);
    drop(raw);
    let ended = ended?;
    provider.ensure_published(&ended.published)?;
    Ok(ExitCode::from(ended.code))
}

/// Whether the command reads what is piped into it: then it says `-` or asks to be interactive. All
/// others leave standard input to whoever shares it.
fn reads_input(matches: &ArgMatches, carried: &[Carried]) -> bool {
    let mut innermost = matches;
    while let Some((_, inner)) = innermost.subcommand() {
        innermost = inner;
    }
    let says = |flag: &str| matches!(innermost.try_get_one::<bool>(flag), Ok(Some(true)));
    says("interactive")
        || says("stdio")
        || carried.iter().any(|file| file.way == Way::In && file.typed == "-")
}

/// Collects the caller's files that the parsed arguments name.
fn carry(
    command: &clap::Command,
    matches: &ArgMatches,
    into: &mut Vec<Carried>,
) -> Result<(), Error> {
    for argument in command.get_arguments() {
        let id = argument.get_id().as_str();
        match way(argument) {
            Some(Way::In) => {
                let values = matches.try_get_many::<InputPath>(id).ok().flatten();
                let sides = matches.try_get_many::<CopySide<InputPath>>(id).ok().flatten();
                let sides = sides.into_iter().flatten().filter_map(CopySide::caller);
                for path in values.into_iter().flatten().chain(sides) {
                    into.push(Carried::look(path.typed(), Way::In)?);
                }
                let volumes = matches.try_get_many::<VolumeAsk>(id).ok().flatten();
                for volume in volumes.into_iter().flatten() {
                    into.push(Carried::look(&volume.host, Way::In)?);
                }
                let images = matches.try_get_many::<ImagePath>(id).ok().flatten();
                for image in images.into_iter().flatten() {
                    into.extend(Carried::look_at_image(image)?);
                }
            }
            Some(Way::Out) => {
                let values = matches.try_get_many::<OutputPath>(id).ok().flatten();
                let sides = matches.try_get_many::<CopySide<OutputPath>>(id).ok().flatten();
                let sides = sides.into_iter().flatten().filter_map(CopySide::caller);
                for path in values.into_iter().flatten().chain(sides) {
                    into.push(Carried::look(path.typed(), Way::Out)?);
                }
            }
            None => {}
        }
    }
    if let Some((name, inner)) = matches.subcommand()
        && let Some(command) = command.find_subcommand(name)
    {
        carry(command, inner, into)?;
    }
    Ok(())
}

/// Which way the files of an argument travel, if it names files of the caller.
fn way(argument: &clap::Arg) -> Option<Way> {
    let kind = argument.get_value_parser().type_id();
    let is_input = [
        TypeId::of::<InputPath>(),
        TypeId::of::<CopySide<InputPath>>(),
        TypeId::of::<VolumeAsk>(),
        TypeId::of::<ImagePath>(),
    ];
    if is_input.iter().any(|input| kind == *input) {
        Some(Way::In)
    } else if kind == TypeId::of::<OutputPath>() || kind == TypeId::of::<CopySide<OutputPath>>() {
        Some(Way::Out)
    } else {
        None
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "tests stop at the first surprise")]
mod tests {
    use std::path::PathBuf;

    use clap::Parser;

    use super::*;

    /// Arguments that look like a path of the caller and are none: the command, the argument, why.
    const OTHERS: &[(&str, &str, &str)] = &[
        ("", "config_file", "says where this program's own configuration is"),
        ("", "data_dir", "says where this program keeps things"),
        ("exec", "workdir", "a directory of the guest"),
        ("manpages", "dir", "written by this program itself, wherever guests run"),
        ("reference", "dir", "written by this program itself, wherever guests run"),
        ("serve", "hostd_socket", "a socket of the machine that the agent serves"),
    ];

    fn walk(command: &clap::Command, name: &str, wrong: &mut Vec<String>) {
        for argument in command.get_arguments() {
            let id = argument.get_id().as_str();
            let shown: Vec<String> = argument
                .get_value_names()
                .unwrap_or_default()
                .iter()
                .map(|name| name.to_ascii_lowercase())
                .collect();
            let words = shown.iter().map(String::as_str).chain([id]);
            let sounds_like_a_path = words.flat_map(|word| word.split(['_', '-'])).any(|word| {
                matches!(word, "file" | "path" | "dir" | "directory" | "output" | "archive")
            });
            let takes_value = argument.get_action().takes_values();
            let is_path = argument.get_value_parser().type_id() == TypeId::of::<PathBuf>();
            let is_other =
                OTHERS.iter().any(|(of, other, _)| (of.is_empty() || *of == name) && *other == id);
            if takes_value
                && (is_path || sounds_like_a_path)
                && way(argument).is_none()
                && !is_other
            {
                wrong.push(format!("{name}: {id}"));
            }
        }
        for inner in command.get_subcommands() {
            walk(inner, inner.get_name(), wrong);
        }
    }

    #[test]
    fn every_argument_that_names_a_file_of_the_caller_has_a_type_that_says_so() {
        let mut wrong = Vec::new();
        walk(&Cli::command(), "", &mut wrong);
        assert!(
            wrong.is_empty(),
            "use InputPath or OutputPath, or say in OTHERS why not: {wrong:?}"
        );
    }

    #[derive(Debug, Parser)]
    struct Example {
        #[arg(long)]
        from_file: Vec<InputPath>,
        #[arg(long)]
        to: Option<OutputPath>,
        #[arg(long)]
        interactive: bool,
    }

    fn example(words: &[&str]) -> (Vec<(String, Way)>, bool) {
        let command = Example::command();
        let matches = command.clone().try_get_matches_from(words).expect("it parses");
        let mut carried = Vec::new();
        carry(&command, &matches, &mut carried).expect("they have names");
        let reads = reads_input(&matches, &carried);
        (carried.into_iter().map(|file| (file.typed, file.way)).collect(), reads)
    }

    #[test]
    fn files_are_found_by_the_types_of_their_arguments() {
        let (carried, reads) = example(&["x", "--from-file", "a b", "--to=c", "--from-file=$(d)"]);
        let wanted = [("a b", Way::In), ("$(d)", Way::In), ("c", Way::Out)];
        assert_eq!(carried, wanted.map(|(typed, way)| (typed.to_owned(), way)));
        assert!(!reads);
    }

    #[test]
    fn of_a_copy_the_side_that_is_no_guest_travels() {
        let carried = |words: &[&str]| {
            let matches = Cli::command().try_get_matches_from(words).expect("it parses");
            let mut carried = Vec::new();
            carry(&Cli::command(), &matches, &mut carried).expect("they have names");
            carried.into_iter().map(|file| (file.typed, file.way)).collect::<Vec<_>>()
        };
        let guest = "acme/workers/i-a3f7b2c1:/srv/file";
        let there = carried(&["mvm", "instance", "cp", "here/file", guest]);
        assert_eq!(there, [("here/file".to_owned(), Way::In)]);
        let back = carried(&["mvm", "instance", "cp", guest, "here/"]);
        assert_eq!(back, [("here/".to_owned(), Way::Out)]);
    }

    #[test]
    fn an_image_travels_when_it_is_a_path_and_not_when_it_is_a_name() {
        let place = tempfile::tempdir().expect("a directory");
        let path = place.path().display().to_string();
        let carried = |words: &[&str], image: &str| {
            let words = ["mvm"].iter().chain(words).copied().chain([image]);
            let matches = Cli::command().try_get_matches_from(words).expect("it parses");
            let mut carried = Vec::new();
            carry(&Cli::command(), &matches, &mut carried).expect("they have names");
            carried.into_iter().map(|file| (file.typed, file.way)).collect::<Vec<_>>()
        };
        let commands: [&[&str]; 5] = [
            &["pool", "create", "acme/web", "--image"],
            &["pool", "update", "acme/web", "--image"],
            &["new", "openclaw", "acme", "--image"],
            &["run", "--image"],
            &["start"],
        ];
        for words in commands {
            assert_eq!(carried(words, &path), [(path.clone(), Way::In)], "{words:?}");
            for name in ["default", "oci:registry.example.com/app:1", "./absent.elf"] {
                assert_eq!(carried(words, name), [], "{words:?} {name}");
            }
        }
    }

    #[test]
    fn standard_input_is_taken_only_by_who_asks_for_it() {
        assert!(example(&["x", "--from-file", "-"]).1);
        assert!(example(&["x", "--interactive"]).1);
        assert!(!example(&["x", "--from-file", "f"]).1);
    }
}
