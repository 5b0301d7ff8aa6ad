//! The README's first section, run as it is told: the demo, a plugin made, built and tested, a pipeline for it, and its
//! rows. Only two things are done here instead: the path is already set, and the last query is asked by the test, as
//! `sqlite3` is not on every machine.

use std::fmt::Write as _;
use std::process::Command;

use pelton_tests::papers::{Block, blocks};
use pelton_tests::process::{program, repository};

const SECTION: &str = "Your first plugin, in five minutes";

/// The section's blocks as one script: shell as it stands, files written where the text names them.
fn script(section: &[Block]) -> String {
    let mut script = "sqlite3() { :; }\n".to_owned();
    for block in section {
        match &block.file {
            _ if block.is_shell() => script.push_str(&block.text),
            // The plugin's source is shown, not written: `plugin new` has made it.
            Some(file) if !file.ends_with(".rs") => {
                write!(script, "cat > {file} <<'PAPER'\n{}PAPER\n", block.text).expect("a text takes texts")
            }
            _ => {}
        }
    }
    script
}

#[test]
fn the_first_plugin_is_made_as_the_readme_tells() {
    follow(|script| script);
}

/// All of it, but for one command.
#[test]
fn the_first_plugin_is_made_in_python_as_the_readme_tells() {
    const COMMAND: &str = "pelton plugin new hello";
    let readme = std::fs::read_to_string(repository().join("README.md")).expect("a README");
    assert!(readme.contains(&format!("`{COMMAND} --lang python`")), "the README says which");
    follow(|script| {
        let commands = script.lines().filter(|line| line.starts_with(COMMAND)).count();
        assert_eq!(commands, 1, "{script}");
        script.replace(COMMAND, &format!("{COMMAND} --lang python"))
    });
}

/// Runs the section's script, as it is or changed, and looks at the rows.
fn follow(change: impl FnOnce(String) -> String) {
    let readme = std::fs::read_to_string(repository().join("README.md")).expect("a README");
    let section: Vec<Block> = blocks(&readme).into_iter().filter(|block| block.heading == SECTION).collect();
    assert!(section.iter().any(|block| block.file.is_some()), "the section `{SECTION}` writes a pipeline");
    let dir = tempfile::tempdir().expect("a directory");
    let pelton = program("pelton");
    let path =
        format!("{}:{}", pelton.parent().expect("a directory").display(), std::env::var("PATH").expect("a path"));
    let mut bash = Command::new("bash");
    bash.args(["-euxo", "pipefail", "-c", &change(script(&section))]).current_dir(dir.path()).env("PATH", path);
    if std::env::var_os("PELTON_GUEST_TARGET_DIR").is_none() {
        // The standard library for guests is built once for all tests.
        bash.env("PELTON_GUEST_TARGET_DIR", repository().join("plugins/target/wasm"));
    }
    let ran = bash.output().expect("bash runs");
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{said}");

    let query = section.iter().flat_map(Block::commands).find(|command| command.starts_with("sqlite3 "));
    let query = query.expect("the section ends with a look at the rows");
    let (file, select) = query.strip_prefix("sqlite3 ").and_then(|rest| rest.split_once(' ')).expect("a file, a query");
    let tables = rusqlite::Connection::open(dir.path().join("my-shop").join(file)).expect("the embedded tables");
    let mut rows = tables.prepare(select.trim_matches('\'')).expect("a query");
    let sizes: Vec<String> =
        rows.query_map([], |row| row.get("size")).expect("rows").collect::<Result<_, _>>().expect("a size in each row");
    assert!(
        sizes.len() == 5 && sizes.iter().all(|size| ["large", "small"].contains(&size.as_str())),
        "{sizes:?}\n{said}"
    );
}

/// What the plugin's source is in the README is what `pelton plugin new` makes.
#[test]
fn the_plugin_in_the_readme_is_the_one_that_is_made() {
    let readme = std::fs::read_to_string(repository().join("README.md")).expect("a README");
    for (language, template) in [("rust", "plugin/lib.rs"), ("python", "python/plugin.py")] {
        let template = repository().join(format!("host/templates/{template}.template"));
        let made = std::fs::read_to_string(template).expect("a template");
        let shown: Vec<Block> = blocks(&readme).into_iter().filter(|block| block.language == language).collect();
        assert!(!shown.is_empty(), "{language}");
        let squeezed = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        for block in shown {
            assert!(squeezed(&made).contains(&squeezed(&block.text)), "not in the template:\n{}", block.text);
        }
    }
}
