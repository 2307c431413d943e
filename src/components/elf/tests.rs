use std::io::Write;

use proptest::prelude::*;

use super::*;

/// Executables and libraries that every machine has some of.
const SAMPLES: [&str; 5] =
    ["/bin/sh", "/usr/bin/env", "/bin/bash", "/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc.so.6"];

fn samples() -> Vec<Vec<u8>> {
    let read = SAMPLES.iter().filter_map(|path| std::fs::read(path).ok());
    read.filter(|bytes| bytes.starts_with(MAGIC)).collect()
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file
}

#[test]
fn this_test_itself_names_a_loader_and_needs_the_c_library() {
    let elf = read(&std::env::current_exe().unwrap()).unwrap().unwrap();
    assert!(elf.interpreter.is_some_and(|path| path.contains("ld")));
    assert!(elf.needed.iter().any(|name| name.starts_with("libc.")), "{:?}", elf.needed);
}

#[test]
fn what_is_no_elf_file_is_none_and_what_is_no_file_an_error() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("text"), "#!/bin/sh\n").unwrap();
    std::fs::write(dir.path().join("empty"), "").unwrap();
    assert_eq!(read(&dir.path().join("text")), Ok(None));
    assert_eq!(read(&dir.path().join("empty")), Ok(None));
    assert!(read(dir.path()).unwrap_err().contains("not a plain file"));
    assert!(read(&dir.path().join("none")).unwrap_err().contains("No such file"));
}

#[test]
fn a_pipe_is_refused_and_waits_for_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pipe");
    rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::RWXU).unwrap();
    assert!(read(&path).unwrap_err().contains("not a plain file"));
}

#[test]
fn a_file_cut_short_anywhere_has_a_reason_or_lacks_only_what_nobody_reads() {
    for whole in samples() {
        let elf = parse(&file_of(&whole)).unwrap().unwrap();
        let mut cut = 0;
        while cut < whole.len() {
            match parse(&file_of(&whole[..cut])) {
                Ok(None) => assert!(cut < MAGIC.len()),
                Ok(Some(read)) => assert_eq!(read, Elf { build_id: read.build_id.clone(), ..elf.clone() }, "{cut}"),
                Err(why) => assert!(!why.is_empty()),
            }
            cut += if cut < 4096 { 7 } else { 4099 };
        }
    }
}

#[test]
fn lies_about_sizes_are_refused_and_nothing_is_allocated_for_them() {
    let whole = samples().into_iter().next().unwrap();
    let with = |at: usize, bytes: &[u8]| {
        let mut lie = whole.clone();
        lie[at..at + bytes.len()].copy_from_slice(bytes);
        parse(&file_of(&lie))
    };
    // e_phnum, e_phentsize and e_phoff of a 64-bit file.
    assert!(with(0x38, &[0xff, 0xff]).unwrap_err().contains("65535 program headers"));
    assert!(with(0x36, &[1, 0]).unwrap_err().contains("have 1 bytes"));
    assert!(with(0x20, &[0xff; 8]).unwrap_err().contains("cut short in its program headers"));
    assert!(with(4, &[9]).unwrap_err().contains("header cannot be understood"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    /// Bytes changed where the tables are: an answer or a reason, never a panic.
    #[test]
    fn a_mutated_file_never_panics(
        sample in 0_usize..8,
        near in proptest::collection::vec((0_usize..1024, any::<u8>()), 0..12),
        anywhere in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..24),
        words in proptest::collection::vec((0_usize..128, prop_oneof![Just(u64::MAX), Just(1 << 63), Just(0x7fff_ffff), any::<u64>()]), 0..4),
    ) {
        let samples = samples();
        let mut bytes = samples[sample % samples.len()].clone();
        for (at, byte) in near {
            bytes[at] = byte;
        }
        for (at, word) in words {
            bytes[at * 8..at * 8 + 8].copy_from_slice(&word.to_le_bytes());
        }
        for (at, byte) in anywhere {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = parse(&file_of(&bytes));
    }

    /// Notes of any shape: found or not, never a panic.
    #[test]
    fn notes_of_any_shape_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256), little: bool) {
        let _ = find_build_id(&bytes, little);
    }
}

#[test]
fn a_build_id_is_found_behind_other_notes() {
    let note = |name: &[u8], kind: u32, body: &[u8]| {
        let mut note = Vec::new();
        for word in [name.len() as u32, body.len() as u32, kind] {
            note.extend(word.to_le_bytes());
        }
        for part in [name, body] {
            note.extend(part);
            note.resize(note.len().next_multiple_of(4), 0);
        }
        note
    };
    let notes = [note(b"stapsdt\0", 3, b"x"), note(b"GNU\0", 1, b"abcd"), note(b"GNU\0", 3, &[0xab, 1])].concat();
    assert_eq!(find_build_id(&notes, true).as_deref(), Some("ab01"));
    assert_eq!(find_build_id(&notes, false), None);
}
