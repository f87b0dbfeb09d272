//! The program itself, in another process: as it is started, sandboxed, asked, and as it ends.

use std::{
    io::{Read, Write},
    os::{
        fd::AsFd,
        unix::net::{UnixListener, UnixStream},
    },
    process::{Child, Command, Stdio},
};

use mvm_pager::spec::{self, Answer, Ask, BaseFiles, Files, Seal, Spec, Word};
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use zeroize::Zeroizing;

use super::*;

struct Pager {
    child: Child,
    dir: tempfile::TempDir,
}

impl Pager {
    fn start(delta: &File) -> Self {
        let (pager, word) = Self::start_with(delta);
        assert_eq!(word, Word::Ready);
        pager
    }

    fn start_with(delta: &File) -> (Self, Word) {
        let (mem, sums, digest) = base_files();
        Self::start_over(delta, Some((&mem, &sums, digest)))
    }

    fn start_over(delta: &File, base: Option<(&File, &File, [u8; 32])>) -> (Self, Word) {
        let dir = tempfile::tempdir().unwrap();
        let listen = |name| UnixListener::bind(dir.path().join(name)).unwrap();
        let (listener, control) = (listen("memory"), listen("control"));
        let (mut ours, theirs) = UnixStream::pair().unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_mvm-pager"))
            .stdin(OwnedFd::from(theirs))
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let key = Zeroizing::new([7; 32]);
        let seal = Some(Seal { key, header: [1; 32], name: *b"mem\0\0\0\0\0" });
        let spec = Spec {
            memory_pages: PAGES,
            delta: true,
            seal,
            base: base.map(|base| base.2),
            ahead: 1,
        };
        let files = Files {
            listener: listener.as_fd(),
            control: control.as_fd(),
            delta: Some(delta.as_fd()),
            base: base.map(|(mem, sums, _)| BaseFiles { mem: mem.as_fd(), sums: sums.as_fd() }),
        };
        let word = spec::hand_over(&mut ours, &spec, &files).unwrap();
        (Self { child, dir }, word)
    }

    /// Does what Firecracker does.
    fn connect(&self, memory: &Memory) -> Uffd {
        let uffd = Uffd::watch(memory.start(), SIZE as u64).unwrap();
        let stream = UnixStream::connect(self.dir.path().join("memory")).unwrap();
        let text: Vec<String> = regions(memory)
            .iter()
            .map(|region| {
                format!(
                    "{{\"base_host_virt_addr\":{},\"size\":{},\"offset\":{},\"page_size\":4096,\"page_size_kib\":4096}}",
                    region.start, region.size, region.offset
                )
            })
            .collect();
        let text = format!("[{}]", text.join(","));
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [std::os::fd::AsFd::as_fd(&uffd)];
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
        let bytes = [std::io::IoSlice::new(text.as_bytes())];
        sendmsg(&stream, &bytes, &mut ancillary, SendFlags::empty()).unwrap();
        uffd
    }

    fn ask(&self, ask: Ask) -> Vec<u8> {
        let mut stream = UnixStream::connect(self.dir.path().join("control")).unwrap();
        stream.write_all(&[ask.byte()]).unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        answer
    }

    fn end(mut self) -> (Option<i32>, String) {
        let status = self.child.wait().unwrap();
        let mut said = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.code(), said)
    }
}

#[test]
fn it_serves_in_its_sandbox_and_tells_what_it_did() {
    let mut pager = Pager::start(&page_file(Codec::Zstd, true));
    let memory = Memory::new();
    let uffd = pager.connect(&memory);
    for page in (0..PAGES as u32).rev() {
        assert_eq!(memory.page(shown(page)), expect(page), "page {page}");
    }
    let answer: Answer = serde_json::from_slice(&pager.ask(Ask::Stats)).unwrap();
    assert_eq!((answer.delta, answer.stats.delta_pages), (343, 343));
    let pages = pager.ask(Ask::WorkingSet);
    assert!(pages.len() >= 343 * 4 / 16 && pages.len().is_multiple_of(4));
    drop(memory);
    drop(uffd);
    // Its VMM is this process, which stays.
    assert!(pager.child.try_wait().unwrap().is_none());
    pager.child.kill().unwrap();
    assert_eq!(pager.end(), (None, String::new()));
}

#[test]
fn it_ends_with_a_reason_when_a_page_does_not_verify() {
    let file = page_file(Codec::None, true);
    spoil_first(&file);
    let pager = Pager::start(&file);
    let memory = Memory::new();
    let _uffd = pager.connect(&memory);
    let (status, said) = pager.end();
    assert_eq!(status, Some(i32::from(spec::EXIT_FAILED)));
    assert!(said.contains("chunk 0 of the page file was changed"), "{said}");
}

#[test]
fn it_says_at_once_when_its_file_was_changed() {
    let delta = page_file(Codec::Lz4, true);
    let length = delta.metadata().unwrap().len();
    delta.write_all_at(b"x", length - 20).unwrap();
    let (pager, word) = Pager::start_with(&delta);
    assert!(matches!(word, Word::Damaged(reason) if reason.contains("does not verify")));
    assert_eq!(pager.end().0, Some(1));
}

#[test]
fn it_says_at_once_when_its_base_is_not_the_one() {
    let delta = page_file(Codec::Lz4, true);
    for what in ["another", "instead of 1024 pages"] {
        let (mem, sums, digest) = base_files();
        match what {
            "another" => sums.write_all_at(b"x", 50).unwrap(),
            _ => mem.set_len(SIZE as u64 - 1).unwrap(),
        }
        let (pager, word) = Pager::start_over(&delta, Some((&mem, &sums, digest)));
        assert!(matches!(&word, Word::Damaged(reason) if reason.contains(what)), "{word:?}");
        assert_eq!(pager.end().0, Some(1));
    }
}

#[test]
fn it_says_at_once_when_its_file_needs_a_base_and_there_is_none() {
    let (delta, _) = crate::base::page_file(&[100, 101]);
    let (pager, word) = Pager::start_over(&delta, None);
    assert!(matches!(&word, Word::Damaged(reason) if reason.contains("needs a base")), "{word:?}");
    assert_eq!(pager.end().0, Some(1));
}
