#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::cell::Cell;

use super::*;
use crate::untar;
use crate::untar::tests::{all, tar};

/// A static ELF program, as far as its headers go.
fn program(mark: u8) -> Vec<u8> {
    let mut elf = vec![0; 0x40];
    elf.get_mut(..6).unwrap().copy_from_slice(b"\x7fELF\x02\x01");
    elf.get_mut(0x20..0x28).unwrap().copy_from_slice(&0x40_u64.to_le_bytes());
    elf.get_mut(0x38..0x3a).unwrap().copy_from_slice(&1_u16.to_le_bytes());
    elf.extend([1; 56]);
    elf.push(mark);
    elf
}

struct World {
    base: tempfile::TempDir,
    store: ImageStore,
}

fn world() -> World {
    let base = tempfile::tempdir().unwrap();
    fs::write(base.path().join("agent"), program(1)).unwrap();
    let store = ImageStore::open(&base.path().join("images")).unwrap();
    World { base, store }
}

impl World {
    fn assembly(&self, answered: Answered) -> Assembly<'_> {
        let fittings = Fittings {
            agent: self.base.path().join("agent"),
            agent_protocol: 1,
            arch: Arch::X86_64,
        };
        Assembly::new(&fittings, &self.store, answered).unwrap()
    }

    /// An image of a tar stream, and how often its tree was filled.
    fn make(&self, root: &[u8], answered: Answered) -> (Image, usize) {
        let assembly = self.assembly(answered);
        let sha256 = ContentHash::of(root);
        let request = assembly.request(&["test", &sha256.to_string()]);
        if let Some(image) = assembly.answered(request) {
            return (image, 0);
        }
        let input = Input { kind: InputKind::Package, name: "r".to_owned(), version: None, sha256 };
        let limits = TreeLimits::default();
        let order =
            Order { name: "test", request, inputs: vec![input], limits, arrival: Arrival::Any };
        let fills = Cell::new(0);
        let made = assembly.make(order, &|_| (), |tree| {
            fills.set(fills.get() + 1);
            untar::unpack(root, tree, &all).unwrap();
            let kernel = KernelFiles::of_file(b"\x7fELFkernel").unwrap();
            Ok::<_, AssembleError>(Contents { kernel, workload: None, notes: Vec::new() })
        });
        (made.unwrap(), fills.get())
    }
}

fn root() -> Vec<u8> {
    tar(&[("srv/hello", tar::EntryType::Regular, "hello")])
}

#[test]
fn a_tar_stream_becomes_an_image_once() {
    let world = world();
    let (made, fills) = world.make(&root(), Answered::Used);
    made.verify().unwrap();
    assert_eq!(fills, 1);
    assert_eq!(world.make(&root(), Answered::Used), (made.clone(), 0));
    assert!(made.manifest.kernel.cmdline.contains(&"init=/sbin/mvm-guest".to_owned()));
    let names: Vec<_> = fs::read_dir(&made.directory)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(names.len(), 3, "{names:?}");
}

#[test]
fn an_answer_that_does_not_count_is_made_anew_only_if_its_files_are_damaged() {
    let world = world();
    let (made, _) = world.make(&root(), Answered::Used);
    assert_eq!(world.make(&root(), Answered::Ignored), (made.clone(), 0));
    let path = made.root();
    let length = fs::metadata(&path).unwrap().len();
    fs::write(&path, vec![0; usize::try_from(length).unwrap()]).unwrap();
    assert_eq!(world.make(&root(), Answered::Ignored), (made.clone(), 1));
    made.verify().unwrap();
}

#[test]
fn a_failed_fill_leaves_no_image_and_the_next_one_is_made() {
    let world = world();
    let assembly = world.assembly(Answered::Used);
    let request = assembly.request(&["test"]);
    let limits = TreeLimits::default();
    let order = Order { name: "test", request, inputs: Vec::new(), limits, arrival: Arrival::Any };
    let broken = || AssembleError::Agent(PathBuf::from("x"));
    assembly.make(order, &|_| (), |_| Err::<Contents, _>(broken())).unwrap_err();
    assert!(world.store.list().unwrap().is_empty() && assembly.answered(request).is_none());
    assert_eq!(world.make(&root(), Answered::Used).1, 1);
}

#[test]
fn the_kernel_of_another_image_is_shared_and_counts_as_an_input() {
    let world = world();
    let (base, _) = world.make(&root(), Answered::Used);
    let assembly = world.assembly(Answered::Used);
    assert!(assembly.has_agent(&base));
    let (kernel, inputs) = KernelFiles::of_image(&base);
    let request = assembly.request(&["other"]);
    let limits = TreeLimits::default();
    let order = Order { name: "other", request, inputs, limits, arrival: Arrival::Any };
    let contents = Contents { kernel, workload: None, notes: Vec::new() };
    let made = assembly.make(order, &|_| (), |_| Ok::<_, AssembleError>(contents)).unwrap();
    made.verify().unwrap();
    assert_eq!(made.manifest.kernel, base.manifest.kernel);
    fs::remove_dir_all(&base.directory).unwrap();
    made.verify().unwrap();
    fs::write(world.base.path().join("agent"), program(2)).unwrap();
    assert!(!world.assembly(Answered::Used).has_agent(&made));
}
