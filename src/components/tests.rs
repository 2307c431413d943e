//! Real files of this machine and real libraries built by its compiler, compared with what the loader itself says.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::closure::{Closure, Elfs, real};
use super::ldcache::LdCache;
use super::*;
use crate::domain::components::{Edge, Hop, How, Kind, Memory, Source};
use crate::domain::names::{ProgramName, Release, Sha256, Version};

fn cc(dir: &Path, out: &str, args: &[&str]) -> PathBuf {
    let out = dir.join(out);
    std::fs::create_dir_all(out.parent().unwrap()).unwrap();
    let built = Command::new("cc").current_dir(dir).arg("-o").arg(&out).args(args).status();
    assert!(built.expect("cc is needed, and rust needs it too").success(), "{args:?}");
    out
}

/// A library with one function, that calls those of the others.
fn library(dir: &Path, out: &str, name: &str, calls: &[&str], args: &[&str]) -> PathBuf {
    let source = format!("{name}.c");
    let declared: String = calls.iter().map(|other| format!("int {other}(void);")).collect();
    let sum: String = calls.iter().map(|other| format!(" + {other}()")).collect();
    std::fs::write(dir.join(&source), format!("{declared} int {name}(void) {{ return 1{sum}; }}")).unwrap();
    let file = Path::new(out).file_name().unwrap().to_str().unwrap();
    let soname = format!("-Wl,-soname,{file}");
    cc(dir, out, &[&["-shared", "-fPIC", &soname, source.as_str()], args].concat())
}

fn program(dir: &Path, out: &str, calls: &[&str], args: &[&str]) -> PathBuf {
    let declared: String = calls.iter().map(|other| format!("int {other}(void);")).collect();
    let sum: String = calls.iter().map(|other| format!(" + {other}()")).collect();
    std::fs::write(dir.join("main.c"), format!("{declared} int main(void) {{ return 0{sum}; }}")).unwrap();
    cc(dir, out, &[&["main.c"], args].concat())
}

fn closure_of(executable: &Path, env: &BTreeMap<String, String>) -> BTreeMap<PathBuf, Vec<Hop>> {
    let (mut elfs, mut budget) =
        (Elfs::default(), Budget::new(Limits { time: Duration::from_secs(60), ..Limits::default() }));
    let cache = LdCache::read(Path::new("/etc/ld.so.cache")).unwrap();
    let chain = [Hop { name: "exe".into(), how: How::Command }];
    let parts = (&mut elfs, &cache, &mut budget);
    let closure = Closure::of(executable, &chain, executable.parent().unwrap(), env, parts).unwrap();
    assert_eq!(closure.unread, []);
    closure.entries.into_iter().map(|entry| (real(&entry.path), entry.chain)).collect()
}

/// What the loader itself says that it would load.
fn ldd(executable: &Path, env: &BTreeMap<String, String>) -> BTreeSet<PathBuf> {
    let said =
        Command::new("ldd").arg(executable).current_dir(executable.parent().unwrap()).envs(env).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let paths = said.lines().filter_map(|line| line.split(" => ").last()?.split_ascii_whitespace().next());
    paths.filter(|path| path.starts_with('/')).map(|path| Path::new(path).canonicalize().unwrap()).collect()
}

#[track_caller]
fn agrees(executable: &Path, env: &BTreeMap<String, String>) -> BTreeMap<PathBuf, Vec<Hop>> {
    let found = closure_of(executable, env);
    let mut files: BTreeSet<PathBuf> = found.keys().cloned().collect();
    files.remove(&executable.canonicalize().unwrap());
    assert_eq!(files, ldd(executable, env), "{}", executable.display());
    found
}

fn rules<'c>(closure: &'c BTreeMap<PathBuf, Vec<Hop>>, name: &str) -> Vec<(&'c str, How)> {
    let found = closure.iter().find(|(path, _)| path.ends_with(name));
    let chain = found.map(|(_, chain)| chain.iter().map(|hop| (hop.name.as_str(), hop.how)).collect());
    chain.unwrap_or_default()
}

#[test]
fn the_closure_of_this_machines_programs_is_what_the_loader_says() {
    let tried = [
        "/bin/bash",
        "/usr/bin/git",
        "/usr/bin/ssh",
        "/usr/bin/python3",
        "/usr/bin/node",
        "/usr/bin/perl",
        "/usr/bin/curl",
    ];
    let there = tried.map(Path::new).into_iter().filter(|path| path.exists());
    let elf = there.filter(|path| elf::read(path).is_ok_and(|elf| elf.is_some()));
    let compared = elf.inspect(|path| drop(agrees(path, &BTreeMap::new()))).count();
    assert!(compared > 0, "none of {tried:?} is here");
}

#[test]
fn libraries_are_found_by_rpath_runpath_origin_and_environment_as_the_loader_finds_them() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    library(dir, "far/libinner.so", "inner", &[], &[]);
    library(dir, "other/libinner.so", "inner", &[], &[]);
    library(
        dir,
        "r/lib/libouter.so",
        "outer",
        &["inner"],
        &["-Lfar", "-linner", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../../far"],
    );
    let runpath = ["-Lr/lib", "-louter", "-Wl,-rpath-link,far", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../lib"];
    let run = program(dir, "r/bin/run", &["outer"], &runpath);
    let found = agrees(&run, &BTreeMap::new());
    assert_eq!(
        rules(&found, "far/libinner.so"),
        [("exe", How::Command), ("libouter.so", How::Runpath), ("libinner.so", How::Runpath)]
    );
    // An rpath is handed down: the executable's helps the library that has none.
    library(dir, "bare/libouter.so", "outer", &["inner"], &["-Lfar", "-linner"]);
    let rpath = [
        "-Lbare",
        "-louter",
        "-Wl,-rpath-link,far",
        "-Wl,--disable-new-dtags,-rpath,$ORIGIN/../../bare:$ORIGIN/../../other",
    ];
    let old = program(dir, "r/bin/old", &["outer"], &rpath);
    let found = agrees(&old, &BTreeMap::new());
    assert_eq!(rules(&found, "other/libinner.so").last(), Some(&("libinner.so", How::Rpath)));
    let env = BTreeMap::from([("LD_LIBRARY_PATH".to_owned(), format!("{}/other", dir.display()))]);
    let found = agrees(&run, &env);
    assert_eq!(rules(&found, "other/libinner.so").last(), Some(&("libinner.so", How::LibraryPath)));
    let env = BTreeMap::from([("LD_PRELOAD".to_owned(), format!("{}/other/libinner.so", dir.display()))]);
    let found = agrees(&run, &env);
    assert!(rules(&found, "other/libinner.so").iter().any(|(_, how)| *how == How::Preload));
}

fn subject(dir: &Path, argv: &[&str], pids: Vec<u32>) -> Subject {
    let env = BTreeMap::from([("PATH".to_owned(), "/usr/local/bin:/usr/bin:/bin".to_owned())]);
    Subject {
        program: ProgramName::new("shop").unwrap(),
        release: Release { version: Version::new("1").unwrap(), sha256: Sha256([1; 32]) },
        instance: "one".to_owned(),
        dir: dir.canonicalize().unwrap(),
        argv: argv.iter().map(|word| (*word).to_owned()).collect(),
        env,
        declared: Vec::new(),
        pids,
    }
}

fn edge<'l>(look: &'l Look, name: &str) -> &'l Edge {
    let found = look.usage.edges.iter().find(|edge| edge.component.name.as_str().ends_with(name));
    found.unwrap_or_else(|| panic!("no {name} in {:#?}", look.usage))
}

fn told(edge: &Edge, source: Source) -> String {
    let of_source = edge.evidence.iter().find(|evidence| evidence.source == source);
    of_source.map(ToString::to_string).unwrap_or_default()
}

/// With time enough for a machine that does a lot else.
fn reader() -> Reader {
    let limits = Limits { time: Duration::from_secs(60), ..Limits::default() };
    Reader::new(&std::env::current_exe().unwrap(), limits)
}

#[test]
fn a_program_uses_what_its_release_links_and_the_release_itself_is_no_component() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    library(dir, "sys/libgreet.so.1.0", "greet", &[], &["-Wl,-soname,libgreet.so.1"]);
    for link in ["libgreet.so.1", "libgreet.so"] {
        std::os::unix::fs::symlink("libgreet.so.1.0", dir.join("sys").join(link)).unwrap();
    }
    let sys = format!("-Wl,--enable-new-dtags,-rpath,{}/sys", dir.canonicalize().unwrap().display());
    library(dir, "r/lib/libown.so", "own", &["greet"], &["-Lsys", "-lgreet", &sys]);
    program(
        dir,
        "r/bin/run",
        &["own"],
        &["-Lr/lib", "-lown", "-Wl,-rpath-link,sys", "-Wl,--enable-new-dtags,-rpath,$ORIGIN/../lib"],
    );
    // Nothing needs this one: the program loads it by name, if it does.
    library(dir, "sys/libother.so.1", "other", &[], &[]);
    library(dir, "r/lib/plugin.so", "plug", &["other"], &["sys/libother.so.1", &sys]);
    let mut subject = subject(&dir.join("r"), &["bin/run"], Vec::new());
    subject.declared = ["/bin/sh", "acme-runtime"].map(|name| name.parse().unwrap()).to_vec();
    let look = reader().look(&subject, Memory::default());
    assert_eq!(look.usage.unread, []);
    let greet = edge(&look, "/sys/libgreet.so.1");
    assert_eq!(told(greet, Source::Static), "bin/run → libown.so (runpath) → libgreet.so.1 (runpath)");
    let other = edge(&look, "/sys/libother.so.1");
    assert_eq!(told(other, Source::Static), "lib/plugin.so (in the release) → libother.so.1 (runpath)");
    assert!(other.quiesces());
    assert!(greet.quiesces() && greet.component.kind == Kind::File && greet.component.version.is_some());
    assert!(greet.files[0].ends_with("/sys/libgreet.so.1.0"));
    assert!(look.usage.edges.iter().all(|edge| !edge.component.name.as_str().contains("libown")));
    assert_eq!(told(edge(&look, "acme-runtime"), Source::Declared), "acme-runtime (uses)");
    assert_eq!(look.usage.edges.iter().filter(|edge| !told(edge, Source::Declared).is_empty()).count(), 2);
    let c_library = look.usage.edges.iter().find(|edge| edge.files.iter().any(|file| file.contains("libc.so")));
    assert!(c_library.is_some_and(Edge::quiesces), "{:#?}", look.usage);
}

#[test]
fn a_process_shows_what_it_has_in_memory_and_what_of_it_was_replaced_since() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().canonicalize().unwrap();
    let build =
        |number: &str| library(&dir, "new/libgreet.so.1", "greet", &[], &[&format!("-Wl,--build-id=0x{number}")]);
    std::fs::create_dir(dir.join("sys")).unwrap();
    let installed = dir.join("sys/libgreet.so.1");
    std::fs::rename(build("aa01"), &installed).unwrap();
    std::fs::write(
        dir.join("main.c"),
        "#include <unistd.h>\nint greet(void); int main(void) { greet(); write(1, \"!\", 1); pause(); return 0; }",
    )
    .unwrap();
    let run = cc(&dir, "r/run", &["main.c", "sys/libgreet.so.1", &format!("-Wl,-rpath,{}/sys", dir.display())]);
    let mut child = Command::new(run).stdout(std::process::Stdio::piped()).spawn().unwrap();
    // It has loaded everything once it speaks.
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut [0]).unwrap();
    let subject = subject(&dir.join("r"), &["./run"], vec![child.id()]);
    let mut reader = reader();
    let first = reader.look(&subject, Memory::default());
    let before = edge(&first, "/sys/libgreet.so.1");
    assert_eq!(
        (told(before, Source::Observed), before.stale.clone()),
        (format!("{} (mapped)", installed.display()), None)
    );
    std::fs::rename(build("bb02"), &installed).unwrap();
    // By who has seen it before, and by who comes only now.
    let known = reader.look(&subject, first.memory.clone());
    let new = super::tests::reader().look(&subject, Memory::default());
    child.kill().unwrap();
    child.wait().unwrap();
    for (look, by) in [(&known, "known"), (&new, "new")] {
        let after = edge(look, "/sys/libgreet.so.1");
        let stale = after.stale.as_ref().unwrap_or_else(|| panic!("{by}: {after:#?}"));
        assert_eq!(
            (stale.why, stale.file.as_str()),
            (crate::domain::components::Replaced::Replaced, installed.to_str().unwrap())
        );
        assert_eq!(after.component.version.as_ref().map(|version| version.text.as_str()), Some("bb02"), "{by}");
    }
    let running = |look: &Look| edge(look, "/sys/libgreet.so.1").stale.clone()?.running.map(|version| version.text);
    assert_eq!(running(&known).as_deref(), Some("aa01"));
    assert!(running(&new).is_none_or(|build| build == "aa01"));
    // Its memory is gone with it, and what was seen in it is not.
    let gone = reader.look(&subject, known.memory);
    assert!(gone.usage.unread[0].to_string().contains("it ended while it was looked at"), "{:?}", gone.usage.unread);
    let edge = edge(&gone, "/sys/libgreet.so.1");
    assert!(!told(edge, Source::Observed).is_empty() && edge.stale.is_none());
}

#[test]
fn a_release_with_a_hostile_library_is_looked_at_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("r")).unwrap();
    std::fs::write(dir.path().join("r/libbad.so"), b"\x7fELF\x02\x01\x01 and no more").unwrap();
    std::fs::write(dir.path().join("r/run"), "#!/bin/sh\nexec sleep 1\n").unwrap();
    let look = reader().look(&subject(&dir.path().join("r"), &["./run"], Vec::new()), Memory::default());
    let [unread] = &look.usage.unread[..] else { panic!("{:?}", look.usage.unread) };
    assert!(unread.what.ends_with("libbad.so") && unread.why.contains("header"), "{unread}");
    assert!(look.usage.edges.iter().any(|edge| told(edge, Source::Static).contains("(#!)")));
}

#[test]
fn a_bound_that_is_reached_is_said_with_the_key_that_raises_it() {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..20 {
        std::fs::write(dir.path().join(format!("lib{number}.so")), "").unwrap();
    }
    let limits = Limits { files: 10, ..Limits::default() };
    let mut reader = Reader::new(Path::new("/bin/sh"), limits);
    let look = reader.look(&subject(dir.path(), &["/bin/sh"], Vec::new()), Memory::default());
    let said: Vec<String> = look.usage.unread.iter().map(ToString::to_string).collect();
    assert!(said.iter().any(|said| said.contains("component_files")), "{said:?}");
    let limits = Limits { time: Duration::ZERO, ..Limits::default() };
    let look = Reader::new(Path::new("/bin/sh"), limits)
        .look(&subject(dir.path(), &["/bin/sh"], Vec::new()), Memory::default());
    assert!(look.usage.unread.iter().any(|unread| unread.why.contains("component_time")), "{:?}", look.usage.unread);
}
