//! Owns the closure of what a process loads: from an executable or a library, what it needs, what that needs, and so on,
//! each found by the loader's rules. Must not know whose files they are.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::elf::{self, Elf};
use super::ldcache::LdCache;
use super::{Budget, file};
use crate::domain::components::loader::{Loaded, Rules};
use crate::domain::components::{Disk, Hop, How, Unread};

/// ELF files that are remembered; with more, all are forgotten.
const REMEMBERED_MAX: usize = 20_000;
/// Machines (elf(5), e_machine) with the names that directories have for them.
const MACHINES: [(u16, &str); 4] = [(62, "x86_64"), (183, "aarch64"), (3, "i386"), (40, "arm")];

type Read = Result<Option<Arc<Elf>>, String>;

/// ELF files that were read before, by what they are on disk.
#[derive(Debug, Default)]
pub struct Elfs {
    read: HashMap<Disk, Read>,
}

impl Elfs {
    pub fn read(&mut self, path: &Path) -> Read {
        let (file, meta) = file::open(path).map_err(|error| error.to_string())?;
        let key = file::disk_of(&meta);
        if self.read.len() >= REMEMBERED_MAX {
            self.read.clear();
        }
        self.read.entry(key).or_insert_with(|| elf::read_file(&file).map(|elf| elf.map(Arc::new))).clone()
    }
}

/// One file of a closure.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Where it was found: perhaps a link.
    pub path: PathBuf,
    pub chain: Vec<Hop>,
    /// An interpreter could load it, and nobody needs it.
    pub can_load: bool,
    loaded: Loaded,
    needed: Vec<String>,
    parent: Option<usize>,
}

/// Why a closure begins where it does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Root {
    /// It is run: what it needs and nobody finds is told.
    Executable,
    /// It may be loaded; where what it needs is not found, it cannot be.
    Library,
    /// As a library; and nobody says that it is.
    CanLoad,
}

/// One process's closure in the making. What is loaded once is not looked for again, as in the loader.
pub struct Closure<'r> {
    elfs: &'r mut Elfs,
    cache: &'r LdCache,
    pub budget: &'r mut Budget,
    rules: Rules,
    kind: (u8, u16),
    musl: bool,
    pub entries: Vec<Entry>,
    names: HashSet<String>,
    seen: HashSet<PathBuf>,
    pub unread: Vec<Unread>,
}

impl<'r> Closure<'r> {
    /// The closure of an executable that is started in `dir` with `env`; an error says why it cannot be read.
    pub fn of(
        executable: &Path,
        chain: &[Hop],
        dir: &Path,
        env: &BTreeMap<String, String>,
        (elfs, cache, budget): (&'r mut Elfs, &'r LdCache, &'r mut Budget),
    ) -> Result<Self, String> {
        let elf = elfs.read(executable)?.ok_or("it is no ELF file")?;
        let interpreter = elf.interpreter.clone();
        let musl = interpreter.as_ref().is_some_and(|path| path.contains("/ld-musl"));
        let mut rules = rules_of(elf.kind, musl);
        rules.dir = file::text(dir);
        rules.library_path = env.get("LD_LIBRARY_PATH").cloned();
        let (entries, names, seen, unread) = Default::default();
        let kind = elf.kind;
        let mut closure = Self { elfs, cache, budget, rules, kind, musl, entries, names, seen, unread };
        closure.begin(executable, chain, Root::Executable);
        if interpreter.is_some() {
            // Before what the executable needs, and so in place of it where it has the same name.
            closure.preload(env);
        }
        closure.load(0, Root::Executable);
        if let Some(loader) = interpreter {
            closure.root(Path::new(&loader), &link(chain, &loader, How::Loader), Root::Executable);
        }
        Ok(closure)
    }

    fn preload(&mut self, env: &BTreeMap<String, String>) {
        let everywhere = file::read_text(Path::new("/etc/ld.so.preload"), 64 << 10).unwrap_or_default();
        let own = env.get("LD_PRELOAD").map(String::as_str).unwrap_or_default();
        let words = own.split([':', ' ']).chain(everywhere.split_ascii_whitespace());
        for word in words.filter(|word| !word.is_empty()) {
            let path =
                if word.contains('/') { Some(PathBuf::from(word)) } else { self.search(word, None).map(|at| at.0) };
            if let Some(path) = path {
                self.begin(&path, &[Hop { name: word.to_owned(), how: How::Preload }], Root::Executable);
            }
        }
    }

    /// Adds a file and all that it needs.
    pub fn root(&mut self, path: &Path, chain: &[Hop], root: Root) {
        let first = self.entries.len();
        self.begin(path, chain, root);
        self.load(first, root);
    }

    fn begin(&mut self, path: &Path, chain: &[Hop], root: Root) {
        if !self.seen.insert(real(path)) {
            return;
        }
        let read = self.budget.file().and_then(|()| self.elfs.read(path));
        let elf = match read {
            Ok(Some(elf)) if elf.kind == self.kind => elf,
            // For another machine, or something else: this process does not load it.
            Ok(_) => return,
            Err(why) => return self.cannot_read(&file::text(path), why),
        };
        self.add(path, chain.to_vec(), &elf, None, root == Root::CanLoad);
    }

    /// Adds what the files from `next` on need, in the loader's order: breadth first.
    fn load(&mut self, mut next: usize, root: Root) {
        while next < self.entries.len() {
            self.load_needed(next, root);
            next += 1;
        }
    }

    fn add(&mut self, path: &Path, chain: Vec<Hop>, elf: &Elf, parent: Option<usize>, can_load: bool) {
        let real = real(path);
        // The kernel names an executable by what its links lead to; the loader a library by where it was found.
        let at = if parent.is_none() { &real } else { path };
        let origin = at.parent().map(file::text).unwrap_or_default();
        let loaded = Loaded { origin, search: elf.search.clone() };
        self.names.extend(elf.soname.clone());
        let (path, needed) = (path.to_owned(), elf.needed.clone());
        self.entries.push(Entry { path, chain, can_load, loaded, needed, parent });
    }

    fn load_needed(&mut self, index: usize, root: Root) {
        let (needed, chain, can_load) = {
            let entry = &self.entries[index];
            (entry.needed.clone(), entry.chain.clone(), entry.can_load)
        };
        if chain.len() > self.budget.limits.depth {
            let why =
                format!("over {} libraries deep; raise [app_server.limits] component_depth", self.budget.limits.depth);
            let what = file::text(&self.entries[index].path);
            return self.cannot_read(&what, why);
        }
        for name in needed {
            if self.names.contains(&name) {
                continue;
            }
            if let Err(why) = self.budget.time() {
                return self.cannot_read("all of its libraries", why);
            }
            match self.search(&name, Some(index)) {
                Some((path, elf, how)) => {
                    self.names.insert(name.clone());
                    if self.seen.insert(real(&path)) {
                        self.add(&path, link(&chain, &name, how), &elf, Some(index), can_load);
                    }
                }
                None if root == Root::Executable => {
                    let asks = chain.last().map(|hop| hop.name.clone()).unwrap_or_default();
                    self.cannot_read(
                        &format!("{name}, which {asks} needs"),
                        "the loader's rules find no such file".into(),
                    );
                }
                None => {}
            }
        }
    }

    /// Looks for a library as the loader does; one of another machine is passed over.
    fn search(&mut self, name: &str, index: Option<usize>) -> Option<(PathBuf, Arc<Elf>, How)> {
        let mut at = index;
        let mut chain = Vec::new();
        while let Some(entry) = at.map(|at| &self.entries[at]) {
            chain.push(&entry.loaded);
            at = entry.parent;
        }
        let nobody = Loaded { origin: self.rules.dir.clone(), search: Default::default() };
        if chain.is_empty() {
            chain.push(&nobody);
        }
        // A library of its own accord has the executable behind it.
        if let Some(executable) = self.entries.first().filter(|first| !chain.contains(&&first.loaded)) {
            chain.push(&executable.loaded);
        }
        let cached = if self.musl { Vec::new() } else { self.cache.files(name, &self.rules.hwcaps) };
        for candidate in self.rules.candidates(name, &chain, &cached) {
            let path = PathBuf::from(candidate.path);
            if !path.is_file() {
                continue;
            }
            match self.budget.file().and_then(|()| self.elfs.read(&path)) {
                Ok(Some(elf)) if elf.kind == self.kind => return Some((path, elf, candidate.how)),
                Ok(_) => {}
                Err(why) => self.cannot_read(&file::text(&path), why),
            }
        }
        None
    }

    fn cannot_read(&mut self, what: &str, why: String) {
        let unread = Unread { what: what.to_owned(), why };
        if !self.unread.contains(&unread) {
            self.unread.push(unread);
        }
    }
}

pub fn link(chain: &[Hop], name: &str, how: How) -> Vec<Hop> {
    let hop = Hop { name: name.to_owned(), how };
    chain.iter().cloned().chain([hop]).collect()
}

/// What a path leads to; the path itself where that cannot be told.
pub fn real(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn rules_of(kind: (u8, u16), musl: bool) -> Rules {
    let machine = MACHINES.iter().find(|(number, _)| *number == kind.1).map_or("", |(_, name)| *name);
    let exists = |dir: &String| Path::new(dir).is_dir();
    let (defaults, hwcaps): (Vec<String>, Vec<String>) = if musl {
        let listed = file::read_text(Path::new(&format!("/etc/ld-musl-{machine}.path")), 64 << 10);
        let listed = listed.unwrap_or_else(|_| "/lib:/usr/local/lib:/usr/lib".to_owned());
        (listed.split([':', '\n']).filter(|dir| !dir.is_empty()).map(str::to_owned).collect(), Vec::new())
    } else {
        // Debian's, then those of others; a machine has one kind or the other.
        let many = ["gnu", "gnueabihf"].map(|abi| format!("{machine}-linux-{abi}"));
        let many = many.iter().flat_map(|name| [format!("/lib/{name}"), format!("/usr/lib/{name}")]);
        let wide = if kind.0 == 2 { ["/lib64", "/usr/lib64"] } else { ["/lib32", "/usr/lib32"] };
        let plain = wide.into_iter().chain(["/lib", "/usr/lib"]).map(str::to_owned);
        (many.chain(plain).filter(exists).collect(), hwcaps(machine))
    };
    let lib = format!("lib/{machine}-linux-gnu");
    let lib = if exists(&format!("/usr/{lib}")) { lib } else { "lib64".to_owned() };
    Rules { lib, platform: machine.to_owned(), defaults, hwcaps, ..Rules::default() }
}

/// The levels of this processor for which a machine's directories may have better builds, the best first.
fn hwcaps(machine: &str) -> Vec<String> {
    #[cfg(target_arch = "x86_64")]
    if machine == "x86_64" {
        let v2 = is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt");
        let v3 = v2
            && is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("lzcnt");
        let v4 = v3
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512cd")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl");
        let levels = [(v4, "x86-64-v4"), (v3, "x86-64-v3"), (v2, "x86-64-v2")];
        return levels.into_iter().filter(|(has, _)| *has).map(|(_, level)| format!("glibc-hwcaps/{level}")).collect();
    }
    let _ = machine;
    Vec::new()
}
