//! Files that instances serve, write and come from.

use super::*;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use neap::domain::names::ProgramName;
use neap::programs::adopt;
use neap::programs::archive;
use neap::programs::instance::{self, Exit};
use neap::programs::prepare::{self, PrepareError};
use neap::programs::shelf::{Rooms, Shelf};
use neap::programs::tree::LIMITS;
use neap::programs::{logs, output};

#[actix_rt::test]
async fn output_is_captured_and_rotated_while_the_program_writes() {
    let script = "
import socket, sys, time
s = socket.create_server(('127.0.0.1', int(sys.argv[1])))
n = 0
while True:
    print('line', n); n += 1
    if n % 500 == 0: time.sleep(0.001)
";
    let ground = Ground::python(script, "");
    let instance = ground.run().await;
    let limits = output::OutputLimits { file_bytes: 64 * 1024, rotated: 1, instances: 1 };
    let log = ground.log(&instance);
    eventually("rotation", || output::rotate(&log, &limits).unwrap().then_some(())).await;
    let mut moved = log.clone().into_os_string();
    moved.push(".1");
    let moved = fs::read_to_string(moved).unwrap();
    let last: u64 = moved.lines().last().unwrap().strip_prefix("line ").unwrap().parse().unwrap();
    let chunk = logs::since(&log, 0).unwrap();
    assert_eq!(chunk.text.lines().next(), Some(format!("line {}", last + 1).as_str()));
    eventually("it still writes", || (logs::since(&log, chunk.next).unwrap().next > chunk.next).then_some(())).await;
    stop_now(&instance).await;
}

#[actix_rt::test]
async fn a_static_program_is_served_with_tags_ranges_and_compressed_files() {
    let ground = Ground::new("[static]\nroot = 'public'\n[health]\npath = '/'\n");
    let public = ground.room().join("public");
    fs::create_dir(&public).unwrap();
    for (name, content) in [("index.html", "home"), ("a.txt", "0123456789"), ("a.txt.gz", "packed"), (".env", "x")] {
        fs::write(public.join(name), content).unwrap();
    }
    let instance = ground.run().await;
    let port = instance.record().port;
    let whole = get(port, "GET /a.txt HTTP/1.1");
    assert!(whole.starts_with("HTTP/1.1 200") && whole.ends_with("0123456789"), "{whole}");
    assert!(whole.contains("content-type: text/plain; charset=utf-8") && whole.contains("vary: Accept-Encoding"));
    let tag = whole.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap().to_owned();
    let line = |head: &str| get(port, head).lines().next().unwrap().to_owned();
    assert!(get(port, "GET / HTTP/1.1").ends_with("home"));
    assert_eq!(line(&format!("GET /a.txt HTTP/1.1\r\nIf-None-Match: {tag}")), "HTTP/1.1 304 Not Modified");
    let part = get(port, &format!("GET /a.txt HTTP/1.1\r\nRange: bytes=2-4\r\nIf-Range: {tag}"));
    assert!(part.starts_with("HTTP/1.1 206") && part.ends_with("\r\n234"), "{part}");
    assert!(part.contains("content-range: bytes 2-4/10"));
    assert_eq!(line("GET /a.txt HTTP/1.1\r\nRange: bytes=2-4\r\nIf-Range: \"old\""), "HTTP/1.1 200 OK");
    assert_eq!(line("GET /a.txt HTTP/1.1\r\nRange: bytes=99-"), "HTTP/1.1 416 Range Not Satisfiable");
    let packed = get(port, "GET /a.txt HTTP/1.1\r\nAccept-Encoding: gzip, br;q=0");
    assert!(packed.contains("content-encoding: gzip") && packed.ends_with("packed"), "{packed}");
    let head = get(port, "HEAD /a.txt HTTP/1.1");
    assert!(head.contains("content-length: 10") && head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(line("POST / HTTP/1.1\r\nContent-Length: 0"), "HTTP/1.1 405 Method Not Allowed");
    assert_eq!(line("GET /.env HTTP/1.1"), "HTTP/1.1 404 Not Found");
    assert_eq!(line("GET /x HTTP/1.1"), "HTTP/1.1 404 Not Found");
    // A pool's idle connection does not keep it from ending at once.
    let mut idle = TcpStream::connect(("127.0.0.1", port)).unwrap();
    idle.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    assert!(idle.read(&mut [0; 1024]).unwrap() > 0);
    let stopped = stop_now(&instance).await;
    assert_eq!((stopped.exit, stopped.killed), (Exit::Status(0), false));
    assert!(stopped.after < Duration::from_secs(2), "{:?}", stopped.after);
}

#[actix_rt::test]
async fn prepare_runs_in_the_release_and_its_failure_shows_its_last_lines() {
    let ground = Ground::new("[process]\ncommand = ['x']\nprepare = ['sh', '-c', 'pwd > made; sleep 600 &']\n");
    let name = instance::new_name(&ground.scope(), &ground.manifest.name);
    prepare::prepare(&ground.around, &ground.manifest, &ground.room(), &name).await.unwrap();
    let made = fs::read_to_string(ground.room().join("made")).unwrap();
    assert_eq!(Path::new(made.trim()), ground.room());
    assert!(adopt::strays(&ground.scope(), &[]).is_empty(), "what it left in the background is gone");

    let ground = Ground::new("[process]\ncommand = ['x']\nprepare = ['sh', '-c', 'echo no network; exit 3']\n");
    let name = instance::new_name(&ground.scope(), &ground.manifest.name);
    let outcome = prepare::prepare(&ground.around, &ground.manifest, &ground.room(), &name).await;
    let Err(PrepareError::Failed(failed)) = outcome else { panic!("{outcome:?}") };
    assert_eq!((failed.how.as_str(), failed.lines.join("")), ("exit status 3", "no network".to_owned()));
}

/// Not a test of its own: what `a_full_disk…` runs with a file system of 64 KiB at the directory it is told.
#[test]
fn helper_unpacks_on_a_full_disk() {
    let (Ok(full), Ok(archive)) = (std::env::var("TEST_FULL_DISK"), std::env::var("TEST_ARCHIVE")) else { return };
    let (full, archive, program) = (Path::new(&full), Path::new(&archive), ProgramName::new("shop").unwrap());
    let sha256 = archive::digest(archive, &LIMITS).unwrap();
    let (shelf, rooms) = (Shelf::open(full.join("releases")).unwrap(), Rooms::open(full.join("programs")).unwrap());
    let unpacked = rooms.unpack(&program, sha256, archive).unwrap_err().to_string();
    let put = shelf.put(&program, archive, sha256).unwrap_err().to_string();
    for told in [unpacked, put] {
        assert!(told.contains("the disk is full") && told.contains("free some room"), "{told}");
    }
    for dir in ["releases/shop", "programs/shop"] {
        assert_eq!(fs::read_dir(full.join(dir)).unwrap().count(), 0, "nothing is left in {dir}");
    }
    fs::write(full.join("room-again"), vec![0; 32 * 1024]).unwrap();
    println!("as it should be");
}

#[test]
fn a_full_disk_is_told_so_and_nothing_is_left_on_it() {
    let dir = tempfile::tempdir().unwrap();
    let (src, full, file) = (dir.path().join("src"), dir.path().join("full"), dir.path().join("archive"));
    fs::create_dir_all(&src).unwrap();
    fs::create_dir_all(&full).unwrap();
    fs::write(src.join("program.toml"), "name = 'shop'").unwrap();
    // Does not get smaller by compression.
    let noise: Vec<u8> =
        (0u64..40_000).flat_map(|n| (n.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 29).to_le_bytes()).collect();
    fs::write(src.join("noise"), noise).unwrap();
    archive::pack(&src, &file, &[], &LIMITS).unwrap();
    let script = "mount -t tmpfs -o size=64k none \"$TEST_FULL_DISK\" || exit 99; exec \"$0\" \"$@\"";
    let mut run = Command::new("unshare");
    run.args(["--map-root-user", "--mount", "sh", "-c", script]).arg(std::env::current_exe().unwrap());
    run.args(["--exact", "programs::files::helper_unpacks_on_a_full_disk", "--nocapture"]);
    let output = run.env("TEST_FULL_DISK", &full).env("TEST_ARCHIVE", &file).output();
    match output {
        Ok(output) if output.status.success() => {
            assert!(String::from_utf8_lossy(&output.stdout).contains("as it should be"));
        }
        Ok(output) if output.status.code() == Some(101) => panic!("{}", String::from_utf8_lossy(&output.stderr)),
        other => eprintln!("not tried: no file system of our own to fill on this machine: {other:?}"),
    }
}
