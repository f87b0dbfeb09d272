//! Both sides in one process, over a pair of sockets; the far command is a program of the system.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests stop at the first surprise"
)]

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::{fs::PermissionsExt, net::UnixStream},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, mpsc},
    thread,
};

use mvm_core::{
    error::{Error, ErrorKind},
    port::{ExecControl, ExecStreams},
    publish::Protocol,
};

use super::{Act, Carried, Ended, ImagePath, Link, Published, Request, Way, client, hello, server};

/// Has a microVM that does not stop, at a port, and the records that are in a file, if it is there.
struct Stubborn {
    records: PathBuf,
}

impl server::Inside for Stubborn {
    fn put_to_rest(&self) -> Result<(), Error> {
        Err(Error::new(ErrorKind::Failed, "a microVM would not stop"))
    }

    fn published(&self) -> Vec<Published> {
        vec![Published { port: 8080, protocol: Protocol::Tcp }]
    }

    fn sources(&self) -> Result<String, Error> {
        fs::read_to_string(&self.records)
            .map_err(|error| Error::new(ErrorKind::Failed, "no records").because(&error))
    }
}

/// A link to a serving thread whose `mvm` is `env`, so that the words are a command line.
pub(crate) fn link(base: &Path) -> Link {
    let (here, there) = UnixStream::pair().unwrap();
    let base = base.to_owned();
    thread::spawn(move || serve(there, Path::new("/usr/bin/env"), &base));
    let reader = Box::new(here.try_clone().unwrap());
    Link { reader, writer: Box::new(here), carrier: None, log: None }
}

/// Serves a connection to its end with this program as `mvm`, and the stamps that are below `base`.
pub(crate) fn serve(there: UnixStream, own: &Path, base: &Path) {
    let from = Box::new(there.try_clone().unwrap());
    let sessions = base.join("sessions");
    let programs = base.join(server::PROGRAMS_FILE.trim_start_matches('/'));
    let kept = base.join("kept");
    let far = server::Far { own, base: &sessions, kept: &kept, programs: &programs };
    // What went wrong is seen at the other end.
    let _ = server::serve(from, Box::new(there), far, &Stubborn { records: base.join("records") });
}

#[derive(Clone, Default)]
struct Buffer(Arc<Mutex<Vec<u8>>>);

impl Write for Buffer {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Buffer {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

struct Far {
    base: tempfile::TempDir,
    out: Buffer,
    errors: Buffer,
}

impl Far {
    fn new() -> Self {
        let base = tempfile::tempdir().unwrap();
        Self { base, out: Buffer::default(), errors: Buffer::default() }
    }

    fn run(&self, request: Request, stdin: impl Read + Send + 'static) -> Result<Ended, Error> {
        let (_sender, control) = mpsc::channel();
        self.run_with(request, stdin, control)
    }

    fn run_with(
        &self,
        request: Request,
        stdin: impl Read + Send + 'static,
        control: mpsc::Receiver<ExecControl>,
    ) -> Result<Ended, Error> {
        let mut link = link(self.base.path());
        hello(&mut link)?;
        let (stdout, stderr) = (Box::new(self.out.clone()), Box::new(self.errors.clone()));
        let streams = ExecStreams { stdin: Box::new(stdin), stdout, stderr, control };
        client::run(link, &request, streams)
    }

    /// A script of the far side that finds the session in its environment.
    fn script(&self, text: &str) -> Act {
        let path = self.base.path().join("script");
        fs::write(&path, text).unwrap();
        Act::Run(vec!["sh".to_owned(), path.to_str().unwrap().to_owned()])
    }
}

fn words(words: &[&str]) -> Request {
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    Request { act: Act::Run(words), ..Request::plain() }
}

#[test]
fn words_arrive_unchanged_and_outputs_stay_apart() {
    let far = Far::new();
    let odd = "a b; $(x) 'y' \"z\" \\ \n*";
    let ended = far.run(words(&["printf", "%s", odd]), io::empty()).unwrap();
    assert_eq!((ended.code, far.out.text().as_str()), (0, odd));
    assert_eq!(ended.published, [Published { port: 8080, protocol: Protocol::Tcp }]);
    let far = Far::new();
    let ended = far.run(words(&["cat", "/nonexistent"]), io::empty()).unwrap();
    assert!(ended.code == 1 && far.out.text().is_empty() && far.errors.text().contains("No such"));
}

#[test]
fn the_exit_code_is_that_of_a_shell() {
    let far = Far::new();
    let act = far.script("exit 42");
    assert_eq!(far.run(Request { act, ..Request::plain() }, io::empty()).unwrap().code, 42);
    let act = far.script("kill -9 $$");
    assert_eq!(far.run(Request { act, ..Request::plain() }, io::empty()).unwrap().code, 137);
}

#[test]
fn more_input_than_the_window_passes_through() {
    let far = Far::new();
    let input: String = (0..200_000).map(|number| format!("{number}\n")).collect();
    let request = Request { takes_input: true, ..words(&["cat"]) };
    let ended = far.run(request, io::Cursor::new(input.clone().into_bytes())).unwrap();
    assert!(ended.code == 0 && far.out.text() == input);
}

#[test]
fn a_signal_reaches_the_command_even_when_it_reads_nothing() {
    let far = Far::new();
    let (sender, control) = mpsc::channel();
    sender.send(ExecControl::Signal(15)).unwrap();
    let request = Request { takes_input: true, ..words(&["sleep", "600"]) };
    let ended = far.run_with(request, io::repeat(b'x'), control).unwrap();
    assert_eq!(ended.code, 143);
}

#[test]
fn nothing_of_the_callers_environment_is_there_but_what_was_said() {
    let far = Far::new();
    let env = [("MVM_LOG".to_owned(), "x y".to_owned())].into();
    far.run(Request { env, ..words(&["env"]) }, io::empty()).unwrap();
    let mut names: Vec<String> =
        far.out.text().lines().map(|line| line.split('=').next().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["HOME", "MVM_FORWARDED", "MVM_LOG", "PATH", "USER"]);
}

#[test]
fn files_travel_in_and_results_come_back_with_their_modes() {
    let far = Far::new();
    let place = far.base.path().join("caller");
    fs::create_dir_all(place.join("tree/deep")).unwrap();
    fs::write(place.join("tree/deep/file"), "inside").unwrap();
    fs::write(place.join("in"), "given").unwrap();
    fs::set_permissions(place.join("in"), fs::Permissions::from_mode(0o640)).unwrap();
    let carry = |name: &str, way| Carried::look(place.join(name).to_str().unwrap(), way).unwrap();
    let carried = vec![
        carry("in", Way::In),
        carry("out", Way::Out),
        carry("tree", Way::In),
        carry("tree", Way::Out),
    ];
    let act = far.script(
        "cd $MVM_FORWARDED && cat 0/in 2/tree/deep/file >1/out && chmod 600 1/out && \
         stat -c %a 0/in && mkdir 3/tree/new && echo x >3/tree/new/y",
    );
    let ended = far.run(Request { act, carried, ..Request::plain() }, io::empty()).unwrap();
    assert_eq!((ended.code, far.out.text().as_str()), (0, "640\n"), "{}", far.errors.text());
    assert_eq!(fs::read_to_string(place.join("out")).unwrap(), "giveninside");
    assert_eq!(fs::metadata(place.join("out")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(fs::read_to_string(place.join("tree/new/y")).unwrap(), "x\n");
    assert_eq!(fs::read_dir(far.base.path().join("sessions")).unwrap().count(), 0);
}

#[test]
fn an_image_of_the_caller_stays_where_later_commands_find_it_and_is_replaced_by_the_next_one() {
    let far = Far::new();
    let place = far.base.path().join("caller");
    fs::create_dir_all(place.join("app")).unwrap();
    let typed = place.join("app/../app").display().to_string();
    let image: ImagePath = typed.parse().unwrap();
    let mut places = Vec::new();
    for (file, others) in [("one", "two"), ("two", "one")] {
        let _gone_already = fs::remove_file(place.join("app").join(others));
        fs::write(place.join("app").join(file), file).unwrap();
        let carried = vec![Carried::look_at_image(&image).unwrap().unwrap()];
        let act = far.script("cat $MVM_FORWARDED/map.json");
        let before = far.out.text().len();
        let request = Request { act, carried, ..Request::plain() };
        assert_eq!(far.run(request, io::empty()).unwrap().code, 0, "{}", far.errors.text());
        let map: Vec<(String, std::path::PathBuf)> =
            serde_json::from_str(&far.out.text()[before..]).unwrap();
        assert_eq!(map[0].0, typed);
        // The session is gone.
        assert_eq!(fs::read_to_string(map[0].1.join(file)).unwrap(), file);
        assert!(!map[0].1.join(others).exists());
        places.push(map[0].1.clone());
    }
    assert_eq!(places[0], places[1], "records go on to name it");
    let kept = fs::read_dir(far.base.path().join("kept")).unwrap().count();
    assert_eq!(kept, 1, "nothing else is left");
    for name in ["default", "oci:registry.example.com/app:1", "./absent.elf"] {
        assert_eq!(Carried::look_at_image(&name.parse().unwrap()).unwrap(), None, "{name}");
    }
}

#[test]
fn an_image_of_the_caller_goes_with_a_later_one_when_neither_records_nor_running_commands_name_it()
{
    let far = Far::new();
    let carry = |name: &str| {
        let image = far.base.path().join(name);
        fs::write(&image, name).unwrap();
        let image: ImagePath = image.to_str().unwrap().parse().unwrap();
        let carried = vec![Carried::look_at_image(&image).unwrap().unwrap()];
        let before = far.out.text().len();
        let act = far.script("cat $MVM_FORWARDED/map.json");
        assert_eq!(
            far.run(Request { act, carried, ..Request::plain() }, io::empty()).unwrap().code,
            0
        );
        let map = far.out.text()[before..].to_owned();
        let places: Vec<(String, PathBuf)> = serde_json::from_str(&map).unwrap();
        (places[0].1.clone(), map)
    };
    let there = |places: [&PathBuf; 3]| places.map(|place| place.exists());
    let ((named, record), (used, map), (last, _)) = (carry("a"), carry("b"), carry("c"));
    assert_eq!(there([&named, &used, &last]), [true; 3], "no records can be read");
    let running = far.base.path().join("sessions/running");
    fs::create_dir(&running).unwrap();
    fs::write(running.join("map.json"), map).unwrap();
    fs::write(far.base.path().join("records"), record).unwrap();
    carry("d");
    assert_eq!(there([&named, &used, &last]), [true, true, false]);
    fs::remove_dir_all(running).unwrap();
    let (last, _) = carry("e");
    assert_eq!(there([&named, &used, &last]), [true, false, true]);
}

#[test]
fn a_result_cannot_leave_the_callers_path() {
    let far = Far::new();
    let place = far.base.path().join("caller");
    fs::create_dir_all(place.join("into")).unwrap();
    std::os::unix::fs::symlink(far.base.path(), place.join("into/link")).unwrap();
    let carried = vec![Carried::look(place.join("into").to_str().unwrap(), Way::Out).unwrap()];
    let act = far.script("cd $MVM_FORWARDED/0/into && mkdir link && echo x >link/escaped");
    let error = far.run(Request { act, carried, ..Request::plain() }, io::empty()).unwrap_err();
    assert_eq!(error.kind, ErrorKind::Failed);
    assert!(!far.base.path().join("escaped").exists());
}

#[test]
fn a_caller_that_is_gone_ends_the_command() {
    let far = Far::new();
    let mark = far.base.path().join("mark");
    let act = far.script(&format!(
        "trap 'echo ended >{0}.part; mv {0}.part {0}; exit' TERM; echo ready; while :; do sleep 0.05; done",
        mark.display()
    ));
    let mut link = link(far.base.path());
    hello(&mut link).unwrap();
    let mut from = link.reader;
    let mut to = link.writer;
    let request = Request { act, ..Request::plain() };
    super::wire::Frame::Request(request).write(&mut to).unwrap();
    super::wire::Frame::Upload(Vec::new()).write(&mut to).unwrap();
    // Its first word says that it runs; then both ends of the caller go.
    let Some(super::wire::Frame::Output(_)) = super::wire::Frame::read(&mut from).unwrap() else {
        panic!("it did not start");
    };
    drop((from, to));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !mark.exists() {
        assert!(std::time::Instant::now() < deadline, "the command goes on");
        thread::yield_now();
    }
}

#[test]
fn a_machine_whose_microvms_do_not_stop_is_not_switched_off() {
    let far = Far::new();
    let request = Request { act: Act::PowerOff, ..Request::plain() };
    let error = far.run(request, io::empty()).unwrap_err();
    assert!(error.message.contains("would not stop"), "{error}");
}

#[test]
fn a_far_side_that_dies_is_unavailable() {
    let (here, there) = UnixStream::pair().unwrap();
    drop(there);
    let reader = Box::new(here.try_clone().unwrap());
    let mut link = Link { reader, writer: Box::new(here), carrier: None, log: None };
    assert_eq!(hello(&mut link).unwrap_err().kind, ErrorKind::Unavailable);
}
