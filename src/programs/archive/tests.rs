use super::*;
use crate::programs::tree::LIMITS;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

fn example(dir: &Path) {
    fs::create_dir_all(dir.join("bin")).unwrap();
    fs::create_dir_all(dir.join("empty")).unwrap();
    fs::write(dir.join("program.toml"), "name = 'x'").unwrap();
    fs::write(dir.join("bin/run"), "#!/bin/sh\n").unwrap();
    fs::set_permissions(dir.join("bin/run"), fs::Permissions::from_mode(0o711)).unwrap();
    fs::write(dir.join("x.log"), "left out").unwrap();
    fs::write(dir.join(".neapignore"), "*.log\n").unwrap();
    symlink("bin/run", dir.join("link")).unwrap();
    fs::write(dir.join("n".repeat(150)), "long").unwrap();
}

fn pack_example(dir: &Path, to: &Path) -> Packed {
    pack(dir, to, &[], &LIMITS).unwrap()
}

/// One raw tar entry, as an attacker would write it.
fn raw(path: &[u8], kind: u8, link: &[u8], content: &[u8]) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    let bytes = header.as_mut_bytes();
    bytes[..path.len()].copy_from_slice(path);
    bytes[157..157 + link.len()].copy_from_slice(link);
    bytes[156] = kind;
    header.set_mode(0o6777);
    header.set_size(content.len() as u64);
    header.set_cksum();
    let mut out = header.as_bytes().to_vec();
    out.extend_from_slice(content);
    out.resize(out.len().div_ceil(512) * 512, 0);
    out
}

fn archive_of(dir: &Path, entries: &[Vec<u8>]) -> (std::path::PathBuf, Sha256) {
    let mut tar = entries.concat();
    tar.extend_from_slice(&[0; 1024]);
    let path = dir.join("hostile.tar.zst");
    fs::write(&path, zstd::encode_all(&tar[..], 1).unwrap()).unwrap();
    (path, Sha256(Hasher::digest(&tar).into()))
}

/// Unpacks what must be refused; nothing may be left, inside or outside.
fn refused(entries: &[Vec<u8>], limits: &Limits) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("in")).unwrap();
    let (file, sha) = archive_of(dir.path(), entries);
    let told = unpack(&file, &dir.path().join("in/room"), sha, limits).unwrap_err().to_string();
    assert_eq!(fs::read_dir(dir.path().join("in")).unwrap().count(), 0, "{told}");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "{told}");
    told
}

#[test]
fn what_is_packed_is_unpacked_without_what_is_ignored() {
    let dir = tempfile::tempdir().unwrap();
    example(&dir.path().join("src"));
    let file = dir.path().join("a.tar.zst");
    let packed = pack_example(&dir.path().join("src"), &file);
    let room = dir.path().join("room");
    assert_eq!(unpack(&file, &room, packed.sha256, &LIMITS).unwrap(), packed);
    assert_eq!(fs::read_to_string(room.join("link")).unwrap(), "#!/bin/sh\n");
    let mode = |path: &str| fs::metadata(room.join(path)).unwrap().permissions().mode() & 0o7777;
    assert_eq!((mode("bin/run"), mode("program.toml"), mode("empty")), (0o755, 0o644, 0o755));
    assert!(room.join("n".repeat(150)).is_file());
    assert!(!room.join("x.log").exists() && !room.join(".neapignore").exists());
    assert_eq!(digest(&file, &LIMITS).unwrap(), packed.sha256);
    assert_eq!(read_file(&file, "program.toml", 99, &LIMITS).unwrap().unwrap(), b"name = 'x'");
    assert_eq!(read_file(&file, "none", 99, &LIMITS).unwrap(), None);
}

#[test]
fn the_same_directory_is_the_same_release_whatever_its_times_and_order() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    example(&one);
    fs::create_dir(&two).unwrap();
    fs::write(two.join("n".repeat(150)), "long").unwrap();
    example(&two);
    fs::File::open(two.join("program.toml")).unwrap().set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    let first = pack_example(&one, &dir.path().join("1"));
    assert_eq!(pack_example(&two, &dir.path().join("2")), first);
    // Known for ever: a change of it would make every unchanged directory a new release.
    assert_eq!(first.sha256.to_string(), GOLDEN);
    fs::write(two.join("program.toml"), "name = 'y'").unwrap();
    assert_ne!(pack_example(&two, &dir.path().join("3")).sha256, first.sha256);
    let replaced: &[(&str, &[u8])] = &[("program.toml", b"name = 'x'")];
    assert_eq!(pack(&two, &dir.path().join("4"), replaced, &LIMITS).unwrap(), first);
}

const GOLDEN: &str = "830a8c5363d1fe9e9a3def8f164f39affa4b1b279494d3b279739f08ff3311cb";

#[test]
fn what_is_no_file_directory_or_inner_link_is_not_packed() {
    for (target, expected) in [("/etc/passwd", "\"bad\" links to"), ("../x", "leaves the release")] {
        let dir = tempfile::tempdir().unwrap();
        symlink(target, dir.path().join("bad")).unwrap();
        let told = pack(dir.path(), &dir.path().with_extension("out"), &[], &LIMITS).unwrap_err().to_string();
        assert!(told.contains(expected), "{told}");
        assert!(!dir.path().with_extension("out").exists());
    }
    let dir = tempfile::tempdir().unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("s")).unwrap();
    let told = pack(dir.path(), &dir.path().with_extension("out"), &[], &LIMITS).unwrap_err().to_string();
    assert!(told.starts_with("\"s\" is neither a file"), "{told}");
}

#[test]
fn a_directory_over_the_bounds_is_not_packed() {
    let dir = tempfile::tempdir().unwrap();
    example(dir.path());
    let (few, small) = (Limits { entries: 3, ..LIMITS }, Limits { bytes: 2000, ..LIMITS });
    let out = dir.path().with_extension("out");
    assert!(pack(dir.path(), &out, &[], &few).unwrap_err().to_string().contains("at most 3"));
    assert!(matches!(pack(dir.path(), &out, &[], &small), Err(ArchiveError::TooLarge { limit: 2000 })));
    assert!(!out.exists());
}

#[test]
fn hostile_archives_are_refused_and_leave_nothing() {
    let file = |path: &[u8]| raw(path, b'0', b"", b"x");
    let link = |path: &[u8], target: &[u8]| raw(path, b'2', target, b"");
    for (entries, expected) in [
        (vec![file(b"/etc/x")], "is an absolute path"),
        (vec![file(b"../x")], "contains \"..\""),
        (vec![file(b"a/../../x")], "contains \"..\""),
        (vec![link(b"l", b"/etc")], "not a relative path"),
        (vec![link(b"l", b"../..")], "leaves the release"),
        (vec![link(b"l", b".."), file(b"l/x")], "no directory"),
        (vec![link(b"a", b"b"), link(b"b", b"../..")], "leaves the release"),
        (vec![link(b"l", b"d"), raw(b"d", b'5', b"", b""), file(b"l/x")], "no directory"),
        (vec![file(b"x"), raw(b"h", b'1', b"x", b"")], "is a hard link"),
        (vec![raw(b"c", b'3', b"", b"")], "is a device"),
        (vec![raw(b"p", b'6', b"", b"")], "is a device or a pipe"),
        (vec![file(b"x"), file(b"x")], "is in the archive twice"),
        (vec![file(b"x"), file(b"x/y")], "no directory"),
        (vec![raw(b"x", b'0', b"", &[0; 9000])], "larger than 8192 bytes"),
        (vec![file(b"\xff\xfe")], "is not UTF-8"),
        (vec![raw(b"././@LongLink", b'L', b"", &[b'a'; 4097])], "is longer than 4096 bytes"),
        (vec![raw(b"././@LongLink", b'L', b"", b"../x\0"), file(b"y")], "contains \"..\""),
        (vec![raw(b"././@LongLink", b'K', b"", b"/etc\0"), link(b"l", b"ok")], "not a relative path"),
        (vec![raw(b"p", b'x', b"", b"16 path=../etc/x\n"), file(b"y")], "of a kind that releases do not have"),
        (vec![vec![b'z'; 512]], "not a tar in zstd"),
        (vec![file(b"a"), file(b"b"), file(b"c")], "at most 2"),
    ] {
        let told = refused(&entries, &Limits { bytes: 8192, entries: 2 });
        assert!(told.contains(expected), "{expected}: {told}");
    }
}

#[test]
fn modes_of_an_archive_never_carry_set_user_id() {
    let dir = tempfile::tempdir().unwrap();
    let (file, sha) = archive_of(dir.path(), &[raw(b"x", b'0', b"", b"x")]);
    unpack(&file, &dir.path().join("room"), sha, &LIMITS).unwrap();
    assert_eq!(fs::metadata(dir.path().join("room/x")).unwrap().permissions().mode() & 0o7777, 0o755);
}

#[test]
fn a_wrong_checksum_or_a_damaged_archive_shows_nothing() {
    let dir = tempfile::tempdir().unwrap();
    example(&dir.path().join("src"));
    let file = dir.path().join("a.tar.zst");
    let packed = pack_example(&dir.path().join("src"), &file);
    let room = dir.path().join("room");
    let told = unpack(&file, &room, Sha256([1; 32]), &LIMITS).unwrap_err().to_string();
    assert!(told.contains("the checksum is wrong"), "{told}");
    let bytes = fs::read(&file).unwrap();
    fs::write(&file, &bytes[..bytes.len() / 2]).unwrap();
    assert!(matches!(unpack(&file, &room, packed.sha256, &LIMITS), Err(ArchiveError::Damaged(_))));
    fs::write(&file, b"no zstd").unwrap();
    assert!(matches!(unpack(&file, &room, packed.sha256, &LIMITS), Err(ArchiveError::Damaged(_))));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
}
