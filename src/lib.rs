//! neap upgrades one program on a cluster while everything else, and everyone, goes on.
//!
//! # A bird's-eye view
//!
//! One binary; what a process of it does is its roles, alone or together. A *router* takes clients' requests and sends
//! each to a server. An *app-server* runs programs as child processes and admits requests to them, one gate a program.
//! *Management* holds the Server List and the releases, and leads ripples: upgrades that go from server to server.
//!
//! Two paths that never meet:
//!
//! - A **request** costs a look at a snapshot, an atomic claim, and the copying of bytes. From [`router`]'s handler through
//!   [`proxy`] to [`app_server`]'s claim and the instance, there is no actor and no lock held.
//! - **Control** is a few messages a second. An actor decodes one, asks the domain, saves what it said, and only then
//!   performs it. [`link`] carries messages until they are acknowledged; [`store`] is where they are saved.
//!
//! Start with [`domain`]: [`domain::gate`] (one word that admits or refuses), [`domain::placement`] (what one server does
//! with one program), [`domain::ripple`] (what management does with all of them), and [`domain::routing`] (where a request
//! goes, and when a router may give up). It is pure: `step(state, event, now)`. The model checker in `tests/model` drives
//! this very code. The rules that comments name, P1 to P13, are those of `docs/protocol.md`; the words are those of
//! `docs/lexicon.md`.
//!
//! # Floors
//!
//! A module uses only floors below its own, and rooms on one floor do not know each other; `tests/it/tidy.rs` checks it.
//!
//! | floor | module | owns |
//! |---|---|---|
//! | 5 | [`cli`] | the command line, one file a command |
//! | 4 | [`node`], [`config`], [`telemetry`] | which roles a process has; its configuration; its logs |
//! | 3 | [`router`], [`app_server`], [`management`] | a role each: actors, handlers, endpoints |
//! | 2 | [`store`] | records on disk, and their recovery; nothing else knows sled |
//! | 2 | [`link`] | control messages: outbox, retry, de-duplication, identity, secret |
//! | 2 | [`programs`] | releases and instances: pack, unpack, launch, probe, adopt, stop, logs |
//! | 2 | [`components`] | what files and processes tell of what a program uses |
//! | 2 | [`proxy`] | the bytes of a request: heads, bodies, pools, tunnels, retry |
//! | 2 | [`tls`] | certificates and keys: read, checked, chosen by name, watched |
//! | 2 | [`traffic`] | open-loop load that checks every answer |
//! | 1 | [`wire`] | what crosses a node's boundary: messages, the API, problems and their codes |
//! | 0 | [`domain`] | every decision, as pure functions and state machines |
//!
//! To follow one upgrade: `cli::upgrade` posts a plan, `management::api` takes it, the ripple actor in [`management`] sends
//! quiesce and upgrade, the program actor in [`app_server`] closes the gate, waits until nothing is left, and has
//! [`programs`] stop, start and probe; the ledgers of servers and routers become the receipt.

pub mod app_server;
pub mod cli;
pub mod components;
pub mod config;
pub mod domain;
pub mod link;
pub mod management;
pub mod node;
pub mod programs;
pub mod proxy;
pub mod router;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod traffic;
pub mod wire;
