#![expect(clippy::unwrap_used, reason = "tests stop at the first surprise")]
use super::*;

fn read(text: &str) -> Result<Mvmfile, Error> {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join(NAME), text).unwrap();
    Mvmfile::of_directory(place.path())
}

#[test]
fn every_table_is_read() {
    let text = "[image]\nname = \"web\"\nbase = \"deb:busybox-static\"\ndisk = 512\n\
        [resources]\nmemory = 256\ncpus = 1\n[packages]\napt = [\"zlib1g\", \"libc6\"]\n\
        [[run]]\ncommand = \"make\"\n[[run]]\ncommand = \"make install\"\n\
        [[services]]\nname = \"db\"\ncommand = [\"/db\", \"-x\"]\nrestart = \"on-failure\"\n\
        [[services]]\nname = \"web\"\ncommand = \"exec httpd -f\"\nafter = [\"db\"]\nenv = { A = \"b\" }\n";
    let file = read(text).unwrap();
    assert_eq!(file.base, Base::Packages(vec!["busybox-static".to_owned()]));
    assert_eq!(file.packages, ["libc6", "zlib1g"]);
    assert_eq!(file.run, ["make", "make install"]);
    let (vcpus, mem_mib) = (Some(Vcpus(1)), Some(Mib(256)));
    assert_eq!(file.defaults, PoolDefaults { vcpus, mem_mib, data_disk_mib: Some(Mib(512)) });
    let services = file.workload.unwrap().services;
    let [db, web] = services.as_slice() else { unreachable!() };
    assert_eq!((db.argv.len(), db.restart), (2, Restart::OnFailure));
    assert_eq!(web.argv, ["/bin/sh", "-c", "exec httpd -f"]);
    assert_eq!(web.env.get("A").map(String::as_str), Some("b"));
    let least = read("[image]\nname = \"a\"\n").unwrap();
    assert_eq!((least.base, least.workload), (Base::Default, None));
}

#[test]
fn a_volume_is_the_data_disk() {
    let volume = |size: &str| {
        let text = format!(
            "[image]\nname = \"a\"\n[[volumes]]\nhost = \"a\"\nguest = \"/data\"\nsize = \"{size}\"\n"
        );
        read(&text).map(|file| file.defaults.data_disk_mib)
    };
    for (size, mib) in [("64M", 64), ("2G", 2048)] {
        assert_eq!(volume(size), Ok(Some(Mib(mib))), "{size}");
    }
    for size in ["", "G", "512", "+1G", "9999999G"] {
        assert_eq!(volume(size).unwrap_err().kind, ErrorKind::Invalid, "{size}");
    }
}

#[test]
fn an_unknown_key_is_told_with_its_place_and_the_nearest_one() {
    let error = read("[image]\nname = \"a\"\nbse = \"default\"\n").unwrap_err();
    assert_eq!(error.kind, ErrorKind::Invalid);
    let text = error.to_string();
    for part in [NAME, "line 3, column 1", "`bse`", "did you mean base?"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let image = "[image]\nname = \"a\"\n";
    let service = |rest: &str| format!("{image}[[services]]\nname = \"s\"\n{rest}");
    for text in [
        String::new(),
        "[image]\nname = \"A\"\n".to_owned(),
        format!("{image}disk = 0\n"),
        format!("{image}base = \"other\"\n"),
        format!("{image}base = \"oci:app\"\n"),
        format!("{image}base = \"oci:r.example.com/a\"\n[packages]\napt = [\"zlib1g\"]\n"),
        format!("{image}[packages]\napt = [\"-o\"]\n"),
        format!("{image}[[volumes]]\nhost = \"a\"\nguest = \"b\"\nsize = \"1G\"\n"),
        format!("{image}disk = 1\n[[volumes]]\nhost = \"a\"\nguest = \"/data\"\nsize = \"1G\"\n"),
        format!("{image}[[volumes]]\nhost = \"a\"\nguest = \"/data\"\nsize = \"0\"\n"),
        format!("{image}[[run]]\ncommand = \" \"\n"),
        format!("{image}[[run]]\ncommand = \"{}\"\n", "x".repeat(RUN_MAX + 1)),
        service("command = []\n"),
        service("command = \"x\"\nafter = [\"gone\"]\n"),
        service("command = \"x\"\nafter = [\"s\"]\n"),
        service("command = \"x\"\nrestart = \"often\"\n"),
        service("command = \"x\"\n[[services]]\nname = \"s\"\ncommand = \"y\"\n"),
    ] {
        assert_eq!(read(&text).unwrap_err().kind, ErrorKind::Invalid, "{text}");
    }
    let nowhere = Mvmfile::of_directory(Path::new("/no/such/place")).unwrap_err();
    assert_eq!(nowhere.kind, ErrorKind::NotFound);
}

/// What a person reads of a mistake, word by word; each text stands behind `[image]` and a name.
const MISTAKES: [(&str, &str); 12] = [
    (
        "bse = \"default\"",
        "line 3, column 1: unknown field `bse`, expected one of `name`, `base`, `disk`; did you mean base?",
    ),
    ("disk = \"1G\"", "line 3, column 8: invalid type: string \"1G\", expected u32"),
    (
        "[resource]\nmemory = 1",
        "line 3, column 2: unknown field `resource`, expected one of `image`, `resources`, `packages`, `run`, `volumes`, `services`; did you mean resources?",
    ),
    (
        "[resources]\nmem = 1",
        "line 4, column 1: unknown field `mem`, expected `memory` or `cpus`; did you mean memory?",
    ),
    ("[resources]\ncpus = -1", "line 4, column 8: invalid value: integer `-1`, expected u32"),
    (
        "[packages]\napt = \"zlib1g\"",
        "line 4, column 7: invalid type: string \"zlib1g\", expected a sequence",
    ),
    ("[[run]]\ncmd = \"x\"", "line 4, column 1: unknown field `cmd`, expected `command`"),
    ("[[run]]", "line 3, column 1: missing field `command`"),
    ("[[volumes]]\nhost = \"a\"\nguest = \"/data\"", "line 3, column 1: missing field `size`"),
    (
        "[[services]]\nname = \"s\"\ncommand = 1",
        "line 5, column 11: a command is a text for /bin/sh, or a list of a program and its arguments",
    ),
    (
        "[[services]]\nname = \"s\"\ncommand = \"x\"\nrestart = \"often\"",
        "line 6, column 11: unknown variant `often`, expected one of `never`, `on-failure`, `always`",
    ),
    ("[image", "line 3, column 7: unclosed table, expected `]`"),
];

#[test]
fn a_mistake_is_told_with_its_place_and_what_would_be_right() {
    for (text, told) in MISTAKES {
        let error = read(&format!("[image]\nname = \"a\"\n{text}\n")).unwrap_err();
        let said = error.to_string();
        let said = said.split_once("Mvmfile.toml: ").map_or(said.as_str(), |(_, said)| said);
        assert_eq!(said, told, "{text}");
    }
}
