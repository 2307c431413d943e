//! Owns the Components List: what each server said that its programs use, and the same the other way round. Must not know
//! how servers are asked, nor how it is kept.

use std::collections::BTreeMap;

use super::{ComponentName, Edge, Usage};
use crate::domain::names::{ProgramName, ServerName, Sha256};

/// What one server said of one program, and the digest of that.
#[derive(Clone, PartialEq, Debug)]
struct Told {
    usage: Usage,
    digest: Sha256,
    bytes: usize,
}

/// Component → programs that use it, per server.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ComponentsList {
    servers: BTreeMap<ServerName, BTreeMap<ProgramName, Told>>,
    /// Of all usages, as they are kept.
    bytes: usize,
}

/// One use of a component.
#[derive(Clone, Copy, Debug)]
pub struct Use<'l> {
    pub server: &'l ServerName,
    pub usage: &'l Usage,
    pub edge: &'l Edge,
}

/// What taking in a server's word changed.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Taken {
    pub kept: Vec<ProgramName>,
    pub dropped: Vec<ProgramName>,
    /// There was no room for these.
    pub refused: Vec<ProgramName>,
}

impl ComponentsList {
    /// The digests of what is held of a server: what it need not send again.
    pub fn digests(&self, server: &ServerName) -> BTreeMap<ProgramName, Sha256> {
        let told = self.servers.get(server).into_iter().flatten();
        told.map(|(program, told)| (program.clone(), told.digest)).collect()
    }

    /// Takes in a server's word: the programs that it has, by digest, and the usages that it sent, each with its digest
    /// and its size. What it has no more is dropped; in all, at most `most` bytes are kept.
    pub fn take(
        &mut self,
        server: &ServerName,
        has: &BTreeMap<ProgramName, Sha256>,
        sent: Vec<(Usage, Sha256, usize)>,
        most: usize,
    ) -> Taken {
        let mut taken = Taken::default();
        let of_server = self.servers.entry(server.clone()).or_default();
        for (program, told) in of_server.extract_if(.., |program, _| !has.contains_key(program)) {
            self.bytes -= told.bytes;
            taken.dropped.push(program);
        }
        for (usage, digest, bytes) in sent.into_iter().filter(|(usage, ..)| has.contains_key(&usage.program)) {
            let program = usage.program.clone();
            let old = of_server.remove(&program).map_or(0, |told| told.bytes);
            self.bytes -= old;
            if self.bytes + bytes > most {
                // What was known is not so any more.
                taken.refused.push(program);
                continue;
            }
            self.bytes += bytes;
            of_server.insert(program.clone(), Told { usage, digest, bytes });
            taken.kept.push(program);
        }
        taken
    }

    pub fn usage(&self, server: &ServerName, program: &ProgramName) -> Option<&Usage> {
        self.servers.get(server)?.get(program).map(|told| &told.usage)
    }

    /// All that servers said, by server and program.
    pub fn usages(&self) -> impl Iterator<Item = (&ServerName, &Usage)> {
        let servers = self.servers.iter();
        servers.flat_map(|(server, programs)| programs.values().map(move |told| (server, &told.usage)))
    }

    /// Every use there is, by server and program.
    pub fn uses(&self) -> impl Iterator<Item = Use<'_>> {
        let usages = self.usages();
        usages.flat_map(|(server, usage)| usage.edges.iter().map(move |edge| Use { server, usage, edge }))
    }

    /// The uses of one component.
    pub fn of(&self, component: &ComponentName) -> Vec<Use<'_>> {
        self.uses().filter(|one| one.edge.component.name == *component).collect()
    }

    /// The components that are known by a word that is none's name: the path of a file of theirs, or its last part.
    pub fn named_by_file(&self, word: &str) -> Vec<&ComponentName> {
        let last = |file: &String| file.rsplit('/').next() == Some(word);
        let hops = |edge: &Edge| edge.evidence.iter().any(|one| one.chain.last().is_some_and(|hop| hop.name == word));
        let fits = |edge: &Edge| edge.files.iter().any(|file| file == word || last(file)) || hops(edge);
        let mut names: Vec<_> = self.uses().filter(|one| fits(one.edge)).map(|one| &one.edge.component.name).collect();
        names.sort();
        names.dedup();
        names
    }
}
