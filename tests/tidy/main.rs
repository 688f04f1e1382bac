//! What the whole tree keeps to: arrows between crates, file sizes, words, folders.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// Lines of one file, tests beneath the code apart.
const LINES_MAX: usize = 600;
const TOP_FOLDERS: [&str; 9] =
    [".cargo", ".ci", ".config", "compactor", "gateway", "log", "openapi", "terraform", "tests"];
/// Written so that this file does not hold them itself.
const BANNED_WORDS: [&str; 4] =
    [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
/// Files whose words are not ours.
const FOREIGN: [&str; 3] = ["LICENSE", "Cargo.lock", "tests/clients/package-lock.json"];

fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the crate lies in the workspace");
    root.to_path_buf()
}

fn output(program: &str, arguments: &[&str]) -> String {
    let output =
        Command::new(program).args(arguments).current_dir(root()).output().expect("the program runs");
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("its output is text")
}

/// The files that git knows and that are there, as paths from the root.
fn files() -> Vec<String> {
    let listed = output("git", &["ls-files", "--cached", "--others", "--exclude-standard"]);
    listed.lines().filter(|file| root().join(file).is_file()).map(str::to_owned).collect()
}

/// The names of the normal dependencies of one crate of the workspace.
fn dependencies(package: &str) -> Vec<String> {
    let metadata = output(env!("CARGO"), &["metadata", "--format-version=1", "--no-deps", "--offline"]);
    let metadata: Value = serde_json::from_str(&metadata).expect("metadata is JSON");
    let packages = metadata["packages"].as_array().expect("a list");
    let found =
        packages.iter().find(|found| found["name"] == package).expect("the crate is in the workspace");
    let normal = found["dependencies"].as_array().expect("a list").iter().filter(|one| one["kind"].is_null());
    normal.filter_map(|one| one["name"].as_str()).map(str::to_owned).collect()
}

#[test]
fn arrows_point_from_gateway_over_compactor_to_log() {
    for (package, ours) in [
        ("forebay-log", &[][..]),
        ("forebay-compactor", &["forebay-log"]),
        ("forebay-gateway", &["forebay-compactor", "forebay-log"]),
    ] {
        let mut found = dependencies(package);
        found.retain(|name| name.starts_with("forebay-"));
        found.sort();
        assert_eq!(found, ours, "{package}");
    }
}

#[test]
fn the_log_and_the_compactor_know_no_http() {
    const HTTP: [&str; 9] =
        ["axum", "http", "http-body", "http-body-util", "hyper", "hyper-util", "reqwest", "tower", "utoipa"];
    for package in ["forebay-log", "forebay-compactor"] {
        let found: Vec<String> =
            dependencies(package).into_iter().filter(|name| HTTP.contains(&name.as_str())).collect();
        assert!(found.is_empty(), "{package}: {found:?}");
    }
}

#[test]
fn no_file_outgrows_its_budget() {
    let too_long = |file: &String| {
        let text = std::fs::read_to_string(root().join(file)).expect("source is text");
        let lines = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default().lines().count();
        (lines > LINES_MAX).then(|| format!("{file}: {lines} lines"))
    };
    let files = files();
    let found: Vec<String> = files.iter().filter(|file| file.ends_with(".rs")).filter_map(too_long).collect();
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn no_note_to_self_stays_in_the_tree() {
    for file in files().iter().filter(|file| !FOREIGN.contains(&file.as_str())) {
        let Ok(text) = std::fs::read_to_string(root().join(file)) else { continue };
        for (at, line) in text.lines().enumerate() {
            let words = line.split(|letter: char| !letter.is_ascii_alphanumeric());
            let banned: Vec<&str> = words.filter(|word| BANNED_WORDS.contains(word)).collect();
            assert!(banned.is_empty(), "{file}:{}: {banned:?}", at + 1);
        }
    }
}

#[test]
fn the_top_level_holds_only_the_folders_of_the_map() {
    for file in files() {
        if let Some((folder, _)) = file.split_once('/') {
            assert!(TOP_FOLDERS.contains(&folder), "{file}");
        }
    }
}

#[test]
fn no_lock_file_names_a_host_of_packages() {
    let text = std::fs::read_to_string(root().join("tests/clients/package-lock.json")).expect("it is there");
    assert!(!text.contains("://"), "omit-lockfile-registry-resolved is set in tests/clients/.npmrc");
}
