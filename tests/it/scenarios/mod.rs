//! Scenarios: files of events and of what has to come of each, below `tests/scenarios`. A line that begins with `> ` is
//! an event; the indented lines below it are what the plan, the messages, the steps and the waits are then. Nothing else
//! may happen. `NEAP_SCENARIOS=write` writes what happens into the files, to be read before it is believed.
//!
//! | event | meaning |
//! |---|---|
//! | `servers a b … run V`, `servers a b … run nothing` | the cluster; always first |
//! | `upgrade to V [batch=N] [soak=D] …` | a person asks for it |
//! | `pause`, `resume`, `abort`, `promote`, `undo` | of the newest ripple; `undo ID`: of that one |
//! | `S obeys`, `everyone obeys` | what is on its way to it arrives, and its answers come back |
//! | `S answers N a second` | while it serves, from now on; 10 at first |
//! | `version V answers in T with N errors in 100` | 20 ms and none, unless said |
//! | `S uses X and mail Y of N cores` | what it tells of its load: of the program, of its neighbour |
//! | `S is restarted` | its instance ended by itself |
//! | `S has N active`, `S is healthy`, `S is unhealthy` | |
//! | `S fails to start V: WHY`, `S is slow to start V`, `S comes up` | how it behaves from now on; it has come up |
//! | `S crashes`, `S boots`, `S is silent`, `S is heard` | |
//! | `hook H succeeds`, `hook H fails: WHY`, `S hook H …` | at management, or at a server; it was asked for |
//! | `node drain S [force]`, `node resume S` | a person takes a server out of service, and back |
//! | `mail runs V` | every server has a second program too; an upgrade is of the first, `shop` |
//! | `replace C [batch=N] …` | a component that both use is replaced by a command; `scope=server` with `upgrade`: the whole server |
//! | `S mail has N active`, `S mail is unhealthy`, `S mail loses its lease`, `S loses its lease` | |
//! | `commands take long`, `S command ends`, `S command fails: WHY` | a set's command ends at once, unless said |
//! | `undo catching up` | of the ripple that management began by itself |
//! | `after D` | time passes |
//! | `management restarts` | with what it has saved |
//! | `releases wait`, `releases are prepared` | servers do not, or do, prepare what they are asked to |

mod driven;
mod script;
mod sets;

use std::fs;
use std::path::{Path, PathBuf};

fn files() -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scenarios");
    let mut files: Vec<PathBuf> = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files
}

#[test]
fn every_scenario_goes_as_it_is_written() {
    let write = std::env::var("NEAP_SCENARIOS").is_ok_and(|what| what == "write");
    let (mut seen, mut wrong) = (0, Vec::new());
    for file in files() {
        let written = fs::read_to_string(&file).unwrap();
        let happened = script::play(&written);
        seen += 1;
        if happened != written {
            wrong.push(format!("{}\n{}", file.display(), difference(&written, &happened)));
            if write {
                fs::write(&file, happened).unwrap();
            }
        }
    }
    assert!(seen > 5, "the scenarios are not where they were");
    assert!(wrong.is_empty() || write, "{}", wrong.join("\n"));
}

/// The first lines that differ, with what is before them.
fn difference(written: &str, happened: &str) -> String {
    let (written, happened): (Vec<&str>, Vec<&str>) = (written.lines().collect(), happened.lines().collect());
    let at = written.iter().zip(&happened).take_while(|(a, b)| a == b).count();
    let from = at.saturating_sub(8);
    let show = |lines: &[&str], to: usize| lines[from.min(lines.len())..to.min(lines.len())].join("\n");
    format!("line {}, written:\n{}\nbut it goes:\n{}", at + 1, show(&written, at + 6), show(&happened, at + 12))
}
