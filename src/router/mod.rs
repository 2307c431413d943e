//! Floor 3, the router: receives clients' requests and sends each to a server.
//! Must not know another role: it hears the Server List and tells its ledger through `wire`, over HTTP.

mod list;
mod snapshot;

#[cfg(test)]
mod samples;
