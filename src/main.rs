//! The `neap` binary: parse, dispatch, exit code.

use std::ffi::OsString;

fn main() {
    let mut args = std::env::args_os().skip(1);
    let command = args.next().unwrap_or_default();
    let rest: Vec<OsString> = args.collect();
    match command.to_str() {
        Some("launch-instance") => {
            neap::programs::launcher::main(rest.into_iter().skip_while(|word| word == "--").collect())
        }
        Some("serve-static") => neap::programs::static_files::main(&rest),
        _ => std::process::exit(2),
    }
}
