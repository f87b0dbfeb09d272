#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use serde_json::{Value, json};

use super::*;

const ARCH: Arch = Arch::X86_64;

fn bytes(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap()
}

fn descriptor(platform: Option<(&str, &str)>) -> Value {
    let digest = format!("sha256:{}", "0".repeat(64));
    let mut value = json!({"mediaType": "x", "digest": digest, "size": 1});
    if let (Some((os, architecture)), Some(map)) = (platform, value.as_object_mut()) {
        map.insert("platform".to_owned(), json!({"os": os, "architecture": architecture}));
    }
    value
}

fn workload(run: Value) -> Option<Workload> {
    let value = json!({"os": "linux", "architecture": "amd64", "config": run});
    Config::read(&bytes(&value), ARCH).unwrap().workload().unwrap()
}

#[test]
fn an_index_gives_the_image_of_this_architecture() {
    let read = |manifests: Value| Document::read(&bytes(&json!({"manifests": manifests})), ARCH);
    let other = descriptor(Some(("linux", "arm64")));
    let windows = descriptor(Some(("windows", "amd64")));
    let ours = descriptor(Some(("linux", "amd64")));
    assert!(matches!(read(json!([other, windows, ours])).unwrap(), Document::Index(_)));
    let error = read(json!([other, windows])).unwrap_err().to_string();
    assert!(error.contains("linux/arm64, windows/amd64"), "{error}");
    assert!(matches!(read(json!([descriptor(None)])).unwrap(), Document::Index(_)));
    let two = read(json!([descriptor(None), descriptor(None)]));
    assert!(matches!(two, Err(OciError::Ambiguous(2))));
}

#[test]
fn a_manifest_that_could_be_read_in_two_ways_is_refused() {
    let layer = descriptor(None);
    let both = json!({"config": layer, "layers": [], "manifests": [layer]});
    assert!(matches!(Document::read(&bytes(&both), ARCH), Err(OciError::Manifest)));
    let good = json!({"config": layer, "layers": [layer]});
    assert!(matches!(Document::read(&bytes(&good), ARCH), Ok(Document::Image { .. })));
    let foreign = json!({"config": layer, "layers": [
        {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
         "digest": format!("sha256:{}", "0".repeat(64)), "size": 1}]});
    assert!(matches!(Document::read(&bytes(&foreign), ARCH), Err(OciError::LayerKind(_))));
}

#[test]
fn only_sha256_is_a_digest() {
    for digest in ["sha512:00", "sha256:00", "sha256:../../etc/passwd", ""] {
        let value = json!({"digest": digest, "size": 1});
        let read: Descriptor = serde_json::from_value(value).unwrap();
        assert!(matches!(read.pinned(), Err(OciError::Digest(_))), "{digest}");
    }
}

#[test]
fn entrypoint_and_command_become_one_service() {
    let said = workload(json!({
        "Entrypoint": ["/app"], "Cmd": ["--serve", "80"], "Env": ["PATH=/x", "A=b=c", "broken", "=y"],
        "User": "web:log", "WorkingDir": "srv"
    }));
    let services = said.unwrap().services;
    let [service] = services.as_slice() else { unreachable!() };
    assert_eq!(service.argv, ["/app", "--serve", "80"]);
    let env: Vec<(&str, &str)> =
        service.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(env, [("A", "b=c"), ("PATH", "/x")]);
    assert_eq!(service.user.as_deref(), Some("web:log"));
    assert_eq!(service.cwd.as_deref(), Some("/srv"));
    for nothing in
        [json!({}), json!(null), json!({"Entrypoint": null, "Cmd": []}), json!({"Cmd": [""]})]
    {
        assert_eq!(workload(nothing.clone()), None, "{nothing}");
    }
}

#[test]
fn a_configuration_for_another_machine_is_refused() {
    for (os, architecture) in [("linux", "arm64"), ("windows", "amd64"), ("", "")] {
        let value = json!({"os": os, "architecture": architecture});
        let error = Config::read(&bytes(&value), ARCH).unwrap_err();
        assert!(matches!(error, OciError::NoPlatform { .. }), "{error}");
    }
}

#[test]
fn a_nul_in_a_program_is_refused() {
    let value = json!({"os": "linux", "architecture": "amd64", "config": {"Cmd": ["a\u{0}b"]}});
    let config = Config::read(&bytes(&value), ARCH).unwrap();
    assert!(matches!(config.workload(), Err(OciError::Workload)));
}
