//! The same way in Python. Each build takes the tool some seconds, each first run of a component the compiler some more.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::{Ran, command, pelton, replace, repository};

/// A plugin of these files, made anew.
struct Plugin {
    root: tempfile::TempDir,
    dir: PathBuf,
}

impl Plugin {
    fn new() -> Self {
        let root = tempfile::tempdir().expect("a directory");
        let parent = root.path().to_str().expect("text");
        pelton(&["plugin", "new", "authoring-python", "--lang", "python", "--dir", parent]).expect(0);
        let dir = root.path().join("authoring-python");
        Self { root, dir }
    }

    fn path(&self) -> &str {
        self.dir.to_str().expect("text")
    }

    fn write(&self, file: &str, text: &str) -> &Self {
        let path = self.dir.join(file);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        fs::write(path, text).expect("written");
        self
    }

    /// What its build says against it.
    fn refused(&self) -> String {
        pelton(&["plugin", "build", self.path()]).expect(1).stderr
    }
}

#[test]
fn a_new_plugin_builds_twice_at_once_and_tells_its_exceptions() {
    let plugin = Plugin::new();
    let wasm = plugin.dir.join("authoring-python.wasm");
    its_native_tests_pass(&plugin.dir);
    let unbuilt = pelton(&["plugin", "test", plugin.path()]).expect(1);
    assert!(unbuilt.stderr.contains(&format!("pelton plugin build {}", plugin.path())), "{}", unbuilt.stderr);

    // One order asks for what is not there, two calls deep.
    plugin.write(
        "rates.py",
        "RATES = {\"EUR\": 1.0}\n\n\ndef rate(currency: str) -> float:\n    return RATES[currency]\n",
    );
    let source = plugin.dir.join("plugin.py");
    replace(&source, "from pelton_sdk import", "import rates\nfrom pelton_sdk import");
    let order = "        if order.order_id == \"XAU\":\n            rates.rate(order.order_id)\n";
    replace(&source, "        if order.amount_cents is None", &format!("{order}        if order.amount_cents is None"));
    plugin.write("cases/exception/config.yaml", "large_from_cents: 100\n");
    plugin.write(
        "cases/exception/input.jsonl",
        "{\"value\": {\"order_id\": \"XAU\", \"amount_cents\": 5}}\n{\"value\": {\"order_id\": \"A\", \"amount_cents\": 5}}\n",
    );
    let line = 1 + fs::read_to_string(&source)
        .expect("readable")
        .lines()
        .position(|line| line.contains("rates.rate"))
        .unwrap();
    let message = format!(
        "rates.py:5: KeyError: 'XAU'\nTraceback (most recent call last):\n  File \"plugin.py\", line {line}, in apply\n    \
         rates.rate(order.order_id)\n  File \"rates.py\", line 5, in rate\n    return RATES[currency]\nKeyError: 'XAU'"
    );
    let failure = json!({"record": 0, "reject": "exception", "message": message});
    let row = json!({"record": 1, "output": "default", "value": {"order_id": "A", "amount_cents": 5, "size": "small"}});
    plugin.write("cases/exception/expected.jsonl", &format!("{failure}\n{row}\n"));

    let builds = [(); 2].map(|()| {
        let mut build = command(&["plugin", "build", plugin.path(), "--json"]);
        build.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().expect("pelton runs")
    });
    let built = builds.map(|build| Ran::of(build.wait_with_output().expect("it ends")).expect(0).json());
    let digests = [0, 1].map(|at| built[at]["plugins"][0]["digest"].clone());
    let inspected = pelton(&["plugin", "inspect", wasm.to_str().expect("text"), "--json"]).expect(0).json();
    assert!(digests.contains(&inspected["digest"]), "{digests:?} {inspected:#}");
    assert_eq!((&inspected["world"], &inspected["interface_version"]), (&json!("transform"), &json!("0.1.0")));
    // Only what its code imports, and no WASI.
    let none = Value::Array(Vec::new());
    assert_eq!(inspected["capabilities"], json!(["metrics"]));
    assert_eq!((&inspected["ungrantable"], &inspected["shell"]), (&none, &none));

    let tested = pelton(&["plugin", "test", plugin.path()]).expect(0);
    for case in ["ok      exception (2 records)", "ok      sizes (7 records)"] {
        assert!(tested.stdout.contains(case), "{}", tested.stdout);
    }

    // The same files are not built again; others are called for.
    let again = pelton(&["plugin", "build", plugin.path(), "--json"]).expect(0).json();
    assert!(digests.contains(&again["plugins"][0]["digest"]), "{again:#}");
    fs::File::options()
        .append(true)
        .open(plugin.dir.join("rates.py"))
        .and_then(|file| file.set_modified(fs::metadata(&wasm)?.modified()? + std::time::Duration::from_secs(1)))
        .expect("touched");
    let stale = pelton(&["plugin", "test", plugin.path()]).expect(1);
    assert!(stale.stderr.contains("is older than") && stale.stderr.contains("rates.py"), "{}", stale.stderr);
    let left = fs::read_dir(plugin.root.path()).expect("readable").count();
    assert_eq!(left, 1, "nothing but the plugin is left behind");
}

fn its_native_tests_pass(dir: &Path) {
    let mut python = Command::new("python3");
    python.args(["-B", "-m", "unittest"]).current_dir(dir).env("PYTHONPATH", ".pelton-sdk/python");
    let ran = Ran::of(python.output().expect("Python runs")).expect(0);
    assert!(ran.stderr.contains("Ran 2 tests") && ran.stderr.contains("OK"), "{}", ran.stderr);
}

#[test]
fn mistakes_are_told_with_the_author_s_file_and_line() {
    let plugin = Plugin::new();
    let good = fs::read_to_string(plugin.dir.join("plugin.py")).expect("readable");
    let line_of =
        |text: &str| 1 + good.lines().position(|line| line.contains(text)).unwrap_or_else(|| panic!("{text}"));
    let file = |name: &str| plugin.dir.join(name).display().to_string();

    plugin.write("plugin.py", &good.replace("            return Step.drop()", "            return Step.drop("));
    let said = plugin.refused();
    assert!(said.contains(&format!("{}:{}:", file("plugin.py"), line_of("Step.drop()"))), "{said}");
    assert!(said.contains("SyntaxError: '(' was never closed"), "{said}");

    plugin.write("plugin.py", &good.replace("from dataclasses import dataclass", "from part import dataclass"));
    plugin.write("part.py", "\nimport absent_package\n");
    let said = plugin.refused();
    assert!(said.contains(&format!("{}:2: ModuleNotFoundError", file("part.py"))), "{said}");
    assert!(said.contains("pip install --target vendor absent_package"), "{said}");
    plugin.write("part.py", "raise ValueError('at the start')\n");
    let said = plugin.refused();
    assert!(said.contains(&format!("{}:1: ValueError: at the start", file("part.py"))), "{said}");

    plugin.write("plugin.py", &good.replace("order_id: str ", "order_id: list[str] "));
    let said = plugin.refused();
    let place = format!(
        "{}:{}: Order.order_id: a plugin cannot read a field as list[str]",
        file("plugin.py"),
        line_of("order_id: str")
    );
    assert!(said.contains(&place), "{said}");

    plugin.write("plugin.py", &good.replace("export(Plugin)", ""));
    let said = plugin.refused();
    assert!(said.contains(&format!("{}: it exports nothing", file("plugin.py"))), "{said}");

    // What goes wrong only where the component is made.
    plugin.write("plugin.py", &good.replace("export(Plugin)", "import part\n\nexport(Plugin)"));
    plugin.write("part.py", "import sys\n\nif sys.platform == 'wasi':\n    raise RuntimeError('not here')\n");
    let said = plugin.refused();
    assert!(said.contains(&format!("File \"{}\", line 4", file("part.py"))), "{said}");
    assert!(said.contains("RuntimeError: not here") && !said.contains("Stack backtrace"), "{said}");
    assert!(!plugin.dir.join("authoring-python.wasm").exists(), "nothing was built");
}

#[test]
fn one_folder_of_cases_proves_the_plugin_in_both_languages() {
    let [rust, python] =
        ["shop-orders", "shop-orders-python"].map(|name| repository().join("plugins").join(name).join("cases"));
    assert_eq!(python.canonicalize().expect("a link"), rust.canonicalize().expect("a directory"));
}
