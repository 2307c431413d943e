//! Owns the programs that tests deploy, as directories: the examples, and those that others wrote.
//! Must not know the cluster that they go to.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A release in the making; keys are added below their sections.
#[derive(Clone)]
pub struct Release {
    pub name: String,
    pub version: String,
    strip_prefix: bool,
    sections: Vec<(&'static str, Vec<String>)>,
    files: Files,
}

#[derive(Clone)]
enum Files {
    Shop,
    Copied(PathBuf),
}

impl Release {
    fn new(name: &str, version: &str, files: Files) -> Self {
        let (name, version) = (name.to_owned(), version.to_owned());
        let release = Self { name, version, strip_prefix: true, sections: Vec::new(), files };
        release.upgrade(r#"soak = "200ms""#)
    }

    pub fn process(self, line: &str) -> Self {
        self.line("process", line)
    }

    pub fn health(self, line: &str) -> Self {
        self.line("health", line)
    }

    /// The last line with a key wins.
    pub fn upgrade(self, line: &str) -> Self {
        self.line("upgrade", line)
    }

    pub fn components(self, line: &str) -> Self {
        self.line("components", line)
    }

    pub fn session(self, line: &str) -> Self {
        self.line("session", line)
    }

    fn line(mut self, section: &'static str, line: &str) -> Self {
        let key = |line: &str| line.split('=').next().unwrap_or_default().trim().to_owned();
        let found = self.sections.iter().position(|(name, _)| *name == section);
        let at = found.unwrap_or_else(|| {
            self.sections.push((section, Vec::new()));
            self.sections.len() - 1
        });
        let lines = &mut self.sections[at].1;
        lines.retain(|earlier| key(earlier) != key(line));
        lines.push(line.to_owned());
        self
    }

    /// A shop that behaves in one of its bad ways; see the example.
    pub fn mode(self, mode: &str) -> Self {
        self.process(&format!(r#"env = {{ SHOP_MODE = "{mode}" }}"#))
    }

    /// A shop that takes so long to be prepared, and so long to start.
    pub fn slowly(self, prepare_secs: f32, start_secs: f32) -> Self {
        let run = "exec ./shop --port {port} --log {data}/orders.log";
        self.process(&format!(r#"prepare = ["sleep", "{prepare_secs}"]"#))
            .process(&format!(r#"command = ["sh", "-c", "sleep {start_secs}; {run}"]"#))
    }

    pub fn manifest(&self) -> String {
        let Self { name, version, strip_prefix, .. } = self;
        let mut text = format!(
            "name = \"{name}\"\nversion = \"{version}\"\nroutes = [\"*/{name}\"]\nstrip_prefix = {strip_prefix}\n"
        );
        for (section, lines) in &self.sections {
            text.push_str(&format!("\n[{section}]\n{}\n", lines.join("\n")));
        }
        text
    }

    /// Writes it into a directory below `dir`.
    pub fn write(&self, dir: &Path) -> PathBuf {
        let into = dir.join(format!("{}-{}", self.name, self.version));
        let _ = fs::remove_dir_all(&into);
        match &self.files {
            Files::Shop => {
                fs::create_dir_all(&into).unwrap();
                put_shop(&into.join("shop"));
            }
            Files::Copied(from) => copy_tree(from, &into),
        }
        fs::write(into.join("program.toml"), self.manifest()).unwrap();
        into
    }
}

/// The example written in Rust.
pub fn shop(version: &str) -> Release {
    Release::new("shop", version, Files::Shop)
        .process(r#"command = ["./shop", "--port", "{port}", "--log", "{data}/orders.log"]"#)
        .health(r#"path = "/healthz""#)
        .health(r#"start_timeout = "20s""#)
}

/// The example written in Python.
pub fn mail(version: &str) -> Release {
    Release::new("mail", version, Files::Copied(root("examples/mail")))
        .process(r#"command = ["python3", "mail.py", "--port", "{port}", "--log", "{data}/letters.log"]"#)
        .health(r#"path = "/healthz""#)
}

/// The example of static files.
pub fn site(version: &str) -> Release {
    Release::new("site", version, Files::Copied(root("examples/site"))).line("static", r#"root = "public""#)
}

/// A cart in neap's session data, in Python; neap begins its sessions.
pub fn cart_python(version: &str) -> Release {
    Release::new("cart-python", version, Files::Copied(root("examples/cart-python")))
        .process(r#"command = ["python3", "cart.py", "--port", "{port}"]"#)
        .health(r#"path = "/healthz""#)
        .session(r#"policy = "shared""#)
}

/// The same in Node, with a cookie of its own, and sessions that stay where they are while their server is upgraded.
pub fn cart_node(version: &str, deadline: &str) -> Release {
    Release::new("cart-node", version, Files::Copied(root("examples/cart-node")))
        .process(r#"command = ["node", "cart.js", "{port}"]"#)
        .health(r#"path = "/healthz""#)
        .session(r#"policy = "sticky""#)
        .session(r#"cookie = "cart""#)
        .session(&format!(r#"deadline = "{deadline}""#))
}

/// A program that others wrote, as scripts/lib/test-programs installs it. `None`: it is not installed here, which is
/// told; where CI is set, that is a failure.
pub fn installed(name: &str, version: &str) -> Option<Release> {
    let target = Path::new(env!("CARGO_BIN_EXE_neap")).parent().and_then(Path::parent).unwrap();
    let from = target.join("test-programs").join(name);
    if !from.join("program.toml").exists() {
        let missing = format!("{} is missing: scripts/lib/test-programs installs it", from.display());
        assert!(std::env::var_os("CI").is_none(), "{missing}");
        eprintln!("NOT TESTED: {missing}");
        return None;
    }
    let text = fs::read_to_string(from.join("program.toml")).unwrap();
    let own: toml::Table = toml::from_str(&text).unwrap();
    let mut release = Release::new(name, version, Files::Copied(from));
    for section in ["process", "health"] {
        for (key, value) in own[section].as_table().unwrap() {
            release = release.line(section, &format!("{key} = {value}"));
        }
    }
    Some(release)
}

/// A program whose files a test has made.
pub fn made(name: &str, version: &str, from: &Path, command: &str) -> Release {
    Release::new(name, version, Files::Copied(from.to_owned())).process(&format!("command = {command}"))
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// The example, without what a debugger wants, which is most of it.
fn put_shop(into: &Path) {
    let built = Path::new(env!("CARGO_BIN_EXE_neap")).with_file_name("examples").join("shop");
    assert!(built.exists(), "{} is missing: cargo build --examples", built.display());
    let strip = Command::new("strip").arg("-o").arg(into).arg(&built).status();
    if !strip.is_ok_and(|status| status.success()) {
        fs::copy(&built, into).unwrap();
    }
}

fn copy_tree(from: &Path, into: &Path) {
    fs::create_dir_all(into).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, into) = (entry.file_type().unwrap(), into.join(entry.file_name()));
        if kind.is_dir() {
            copy_tree(&entry.path(), &into);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), into).unwrap();
        } else {
            fs::copy(entry.path(), &into).unwrap();
            let mode = fs::metadata(entry.path()).unwrap().permissions().mode();
            fs::set_permissions(&into, fs::Permissions::from_mode(mode)).unwrap();
        }
    }
}
