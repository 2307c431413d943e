//! Owns what is known of Python: a virtual environment's base interpreter, and the modules that come with it.
//! Must not know what a program imports.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Budget, file, release};

const CONFIG: &str = "pyvenv.cfg";
const CONFIG_BYTES_MAX: u64 = 64 << 10;

/// An interpreter, by where it is started from.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Python {
    /// What `pyvenv.cfg` names, where there is one.
    pub base: Option<PathBuf>,
    /// The virtual environment's own directory.
    pub venv: Option<PathBuf>,
    /// Files that every start reads: with them the library that comes with the interpreter is known.
    pub library: Vec<PathBuf>,
    /// Extension modules that a program could import.
    pub modules: Vec<PathBuf>,
    pub unread: Option<String>,
}

/// What there is to know of an executable, if it is Python's. `path` is how it is named, `real` what that leads to.
pub fn look(path: &Path, real: &Path, budget: &mut Budget) -> Option<Python> {
    let own = version_of(real);
    let venv = path.parent().and_then(Path::parent).filter(|dir| dir.join(CONFIG).is_file());
    if own.is_none() && venv.is_none() {
        return None;
    }
    let mut python = Python { venv: venv.map(Path::to_owned), ..Python::default() };
    let config = venv.map(|dir| config(&dir.join(CONFIG)));
    let config = match config.transpose() {
        Ok(config) => config.unwrap_or_default(),
        Err(why) => {
            python.unread = Some(why);
            return Some(python);
        }
    };
    python.base = base(&config);
    let interpreter = python.base.as_deref().unwrap_or(real);
    let interpreter = interpreter.canonicalize().unwrap_or_else(|_| interpreter.to_owned());
    let version = version_of(&interpreter).or(own).or_else(|| version_in(&config));
    let prefix = interpreter.parent().and_then(Path::parent);
    if let (Some(prefix), Some(version)) = (prefix, version) {
        let library = prefix.join("lib").join(format!("python{version}"));
        python.library = ["os.py", "encodings/__init__.py"].map(|name| library.join(name)).to_vec();
        python.library.retain(|path| path.is_file());
        let mut dirs = vec![library.join("lib-dynload")];
        let all = config.get("include-system-site-packages").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        if venv.is_none() || all {
            dirs.extend([library.join("site-packages"), prefix.join("lib/python3/dist-packages")]);
        }
        for dir in dirs.iter().filter(|dir| dir.is_dir()) {
            let (found, why) = release::libraries(dir, budget);
            python.modules.extend(found);
            python.unread = python.unread.or(why);
        }
    }
    Some(python)
}

/// "3.11" of `python3.11`.
fn version_of(real: &Path) -> Option<String> {
    let name = real.file_name()?.to_str()?;
    let version = name.strip_prefix("python")?;
    let plain = version.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    (plain && version.starts_with('3') && version.contains('.')).then(|| version.to_owned())
}

fn version_in(config: &BTreeMap<String, String>) -> Option<String> {
    let whole = config.get("version").or(config.get("version_info"))?;
    let mut parts = whole.split('.');
    Some(format!("{}.{}", parts.next()?, parts.next()?))
}

fn base(config: &BTreeMap<String, String>) -> Option<PathBuf> {
    let home = config.get("home").map(Path::new);
    let named = config.get("executable").map(PathBuf::from);
    let version = version_in(config).map(|version| format!("python{version}"));
    let guesses = version.into_iter().chain(["python3".to_owned(), "python".to_owned()]);
    let guessed = guesses.filter_map(|name| Some(home?.join(name)));
    named.into_iter().chain(guessed).find(|path| path.is_file())
}

/// `key = value` lines.
fn config(path: &Path) -> Result<BTreeMap<String, String>, String> {
    let text = file::read_text(path, CONFIG_BYTES_MAX).map_err(|error| format!("{}: {error}", path.display()))?;
    let pairs = text.lines().filter_map(|line| line.split_once('='));
    Ok(pairs.map(|(key, value)| (key.trim().to_ascii_lowercase(), value.trim().to_owned())).collect())
}

/// The library that comes with an interpreter which no package has, as a directory: `PREFIX/lib/python3.11` of
/// `PREFIX/bin/python3.11`, where `path` is below it.
pub fn runtime(path: &Path) -> Option<(PathBuf, PathBuf)> {
    path.ancestors().skip(1).find_map(|dir| {
        let version = version_of(dir)?;
        let lib = dir.parent()?;
        let executable = lib.parent()?.join("bin").join(format!("python{version}"));
        (lib.ends_with("lib") && executable.is_file()).then(|| (dir.to_owned(), executable))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::components::Limits;

    fn put(dir: &Path, name: &str, content: &str) -> PathBuf {
        let path = dir.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        path
    }

    fn look_at(path: &Path) -> Option<Python> {
        let real = path.canonicalize().unwrap();
        look(path, &real, &mut Budget::new(Limits::default()))
    }

    #[test]
    fn a_virtual_environment_leads_to_its_base_and_that_to_its_library() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().canonicalize().unwrap();
        let base = put(&dir, "usr/bin/python3.11", "");
        let os = put(&dir, "usr/lib/python3.11/os.py", "");
        let module = put(&dir, "usr/lib/python3.11/lib-dynload/_ssl.cpython-311.so", "");
        let foreign = put(&dir, "usr/lib/python3/dist-packages/apt.so", "");
        let copy = put(&dir, "venv/bin/python", "");
        let config = format!("Home = {}\nversion = 3.11.2\n", base.parent().unwrap().display());
        put(&dir, "venv/pyvenv.cfg", &config);
        let python = look_at(&copy).unwrap();
        assert_eq!((python.base, python.venv), (Some(base.clone()), Some(dir.join("venv"))));
        assert_eq!((python.library, python.modules), (vec![os.clone()], vec![module.clone()]));
        put(&dir, "venv/pyvenv.cfg", &format!("{config}include-system-site-packages = true"));
        assert_eq!(look_at(&copy).unwrap().modules, [module.clone(), foreign.clone()]);
        let plain = look_at(&base).unwrap();
        assert_eq!((plain.base, plain.modules), (None, vec![module.clone(), foreign]));
        assert_eq!(runtime(&module), Some((dir.join("usr/lib/python3.11"), base)));
        assert_eq!(runtime(&copy), None);
    }

    #[test]
    fn what_is_no_python_is_none() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["bin/node", "bin/python-config", "bin/python2.7", "bin/pythonic3.1"] {
            assert_eq!(look_at(&put(dir.path(), name, "")), None, "{name}");
        }
    }
}
