//! Floor 2: a program's files and its processes on one machine. Packs, keeps and unpacks releases; starts, probes,
//! adopts and stops instances. The only spawner.
//! Must not know the cluster: it uses the domain, and neither stores a record nor sends a message.

pub mod adopt;
pub mod archive;
pub mod aside;
pub mod binaries;
pub mod command;
pub mod disk;
pub mod errand;
pub mod hook;
pub mod ignore;
pub mod instance;
pub mod launch;
pub mod launcher;
pub mod logs;
pub mod open_files;
pub mod orphans;
pub mod output;
pub mod ports;
pub mod prepare;
pub mod probe;
pub mod proc;
pub mod relay;
pub mod release;
pub mod session_url;
pub mod shelf;
pub mod sockets;
pub mod static_files;
pub mod stop;
pub mod successor;
pub mod surroundings;
pub mod tree;
pub mod usage;
