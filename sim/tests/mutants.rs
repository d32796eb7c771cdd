//! The planted faults still apply to the code as it is.

use std::path::Path;
use std::process::Command;

#[test]
fn every_planted_fault_applies() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutants");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let files = std::fs::read_dir(&folder).unwrap();
    let mut patches: Vec<_> = files.map(|file| file.unwrap().path()).collect();
    patches.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "patch")
    });
    patches.sort();
    assert!(patches.len() >= 25, "{} planted faults", patches.len());
    for patch in patches {
        let checked = Command::new("git")
            .args(["apply", "--check"])
            .arg(&patch)
            .current_dir(&root)
            .output()
            .expect("git is what this tree came by");
        assert!(
            checked.status.success(),
            "{}: {}",
            patch.display(),
            String::from_utf8_lossy(&checked.stderr)
        );
    }
}
