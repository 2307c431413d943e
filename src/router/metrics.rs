//! Owns this router's metrics, made from the ledger and the snapshot when they are asked for.
//! Must not count anything itself.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::ledger::{BUCKETS, Row, Tally};
use super::shared::Shared;

/// Everything, as OpenMetrics text.
pub fn text(shared: &Arc<Shared>) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(Arc::clone(shared))));
    let mut text = String::new();
    encode(&mut text, &registry)?;
    Ok(text)
}

struct Scrape(Arc<Shared>);

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

type Labels = Vec<(&'static str, String)>;

impl Collector for Scrape {
    fn encode(&self, mut to: DescriptorEncoder) -> fmt::Result {
        let rows = self.0.ledger.sum();
        requests(&mut to, &rows)?;
        took(&mut to, &rows)?;
        self.overhead(&mut to)?;
        let at = |row: &Row| vec![("program", row.program.to_string()), ("server", name(&row.server))];
        let of = |row: &Row| vec![("program", row.program.to_string())];
        let refused = sums(&rows, &at, |tally| tally.counts.refused);
        counters(&mut to, "neap_refused", "Requests that a server turned away", &refused)?;
        let redispatched = sums(&rows, &of, |tally| tally.counts.redispatched);
        counters(&mut to, "neap_redispatched", "Requests sent on to another server", &redispatched)?;
        let held = sums(&rows, &of, |tally| tally.held_now);
        gauges(&mut to, "neap_held_requests", "Requests held because no server takes them", &held)?;
        self.view(&mut to)
    }
}

impl Scrape {
    fn view(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let snapshot = self.0.snapshot();
        let mut active: BTreeMap<Labels, u64> = BTreeMap::new();
        for program in &snapshot.programs {
            for placement in &program.placements {
                let labels =
                    vec![("program", program.name().to_string()), ("server", placement.server.name.to_string())];
                active.insert(labels, placement.own.active.sum());
            }
        }
        gauges(to, "neap_active_requests", "Active requests that came through this router", &active)?;
        let revision = snapshot.list.as_ref().map_or(0, |list| list.stamp.revision.0);
        let node = BTreeMap::from([(vec![("node", self.0.rules.identity.name.to_string())], revision)]);
        gauges(to, "neap_server_list_revision", "Revision of the Server List held", &node)?;
        self.clients(to)?;
        self.certificates(to)?;
        let build = BTreeMap::from([(vec![("version", env!("CARGO_PKG_VERSION").to_owned())], 1)]);
        gauges(to, "neap_build_info", "The build of neap that runs here", &build)
    }

    fn clients(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let crowd = &self.0.rules.crowd;
        let node = |value| BTreeMap::from([(vec![("node", self.0.rules.identity.name.to_string())], value)]);
        gauges(to, "neap_client_connections", "Clients that are connected", &node(crowd.open()))?;
        let help = "Connections closed to make room for others, at limits.connections";
        counters(to, "neap_connections_gave_way", help, &node(crowd.gave_way()))?;
        let help = "Times that all connections were busy while others waited, at limits.connections";
        counters(to, "neap_connections_full", help, &node(crowd.full()))
    }
}

impl Scrape {
    fn overhead(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let (buckets, sum) = self.0.overhead.read();
        let help = "From a request's head to its being sent on, of one request in 32, without a body and not held";
        let node = BTreeMap::from([(vec![("node", self.0.rules.identity.name.to_string())], ())]);
        family(to, "neap_router_overhead_seconds", help, MetricType::Histogram, &node, |(), mut to| {
            let count = buckets.iter().map(|(_, count)| count).sum();
            to.encode_histogram::<NoLabelSet>(sum.as_secs_f64(), count, &buckets, None)
        })
    }

    fn certificates(&self, to: &mut DescriptorEncoder) -> fmt::Result {
        let Some(certificates) = &self.0.rules.certificates else { return Ok(()) };
        let (mut ends, mut broken) = (BTreeMap::new(), BTreeMap::new());
        for status in certificates.status() {
            let labels = vec![("certificate", status.title), ("file", status.cert.display().to_string())];
            ends.insert(labels.clone(), u64::try_from(status.not_after).unwrap_or(0));
            broken.insert(labels, u64::from(status.problem.is_some()));
        }
        gauges(
            to,
            "neap_tls_certificate_expiry_seconds",
            "When a certificate runs out, in seconds of Unix time",
            &ends,
        )?;
        let help = "1: a certificate's files cannot be used, and the one before is served on";
        gauges(to, "neap_tls_certificate_broken", help, &broken)
    }
}

fn name(of: &Option<impl fmt::Display>) -> String {
    of.as_ref().map(ToString::to_string).unwrap_or_default()
}

fn requests(to: &mut DescriptorEncoder, rows: &BTreeMap<Row, Tally>) -> fmt::Result {
    let mut sums: BTreeMap<Labels, u64> = BTreeMap::new();
    for (row, tally) in rows {
        let counts = &tally.counts;
        let outcomes = [
            ("completed", counts.completed),
            ("client_left", counts.client_left),
            ("cut", counts.cut),
            ("failed", counts.failed),
            ("refused", counts.refused),
            ("no_server", counts.no_server - tally.hold_expired),
            ("hold_expired", tally.hold_expired),
        ];
        for (outcome, count) in outcomes.into_iter().filter(|(_, count)| *count > 0) {
            let mut labels = version(row);
            labels.extend([("server", name(&row.server)), ("outcome", outcome.to_owned())]);
            *sums.entry(labels).or_default() += count;
        }
    }
    counters(to, "neap_requests", "Requests by how they ended", &sums)
}

fn version(row: &Row) -> Labels {
    vec![("program", row.program.to_string()), ("version", name(&row.version))]
}

fn took(to: &mut DescriptorEncoder, rows: &BTreeMap<Row, Tally>) -> fmt::Result {
    let mut sums: BTreeMap<Labels, Tally> = BTreeMap::new();
    for (row, tally) in rows.iter().filter(|(_, tally)| tally.took.iter().any(|count| *count > 0)) {
        sums.entry(version(row)).or_default().add(tally);
    }
    let help = "From a request's head to the end of its answer";
    family(to, "neap_request_seconds", help, MetricType::Histogram, &sums, |tally, mut to| {
        let ends = BUCKETS.into_iter().chain([f64::INFINITY]);
        let buckets: Vec<_> = ends.zip(tally.took).collect();
        to.encode_histogram::<NoLabelSet>(tally.took_sum.as_secs_f64(), tally.took.iter().sum(), &buckets, None)
    })
}

fn sums(
    rows: &BTreeMap<Row, Tally>,
    labels: &dyn Fn(&Row) -> Labels,
    value: impl Fn(&Tally) -> u64,
) -> BTreeMap<Labels, u64> {
    let mut sums = BTreeMap::new();
    for (row, tally) in rows.iter().filter(|(_, tally)| value(tally) > 0) {
        *sums.entry(labels(row)).or_default() += value(tally);
    }
    sums
}

fn counters(to: &mut DescriptorEncoder, metric: &str, help: &str, values: &BTreeMap<Labels, u64>) -> fmt::Result {
    family(to, metric, help, MetricType::Counter, values, |value, to| ConstCounter::new(value).encode(to))
}

fn gauges(to: &mut DescriptorEncoder, metric: &str, help: &str, values: &BTreeMap<Labels, u64>) -> fmt::Result {
    let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    family(to, metric, help, MetricType::Gauge, values, |value, to| ConstGauge::new(signed(value)).encode(to))
}

fn family<V: Clone>(
    to: &mut DescriptorEncoder,
    metric: &str,
    help: &str,
    kind: MetricType,
    values: &BTreeMap<Labels, V>,
    write: impl Fn(V, MetricEncoder<'_>) -> fmt::Result,
) -> fmt::Result
where
    Labels: EncodeLabelSet,
{
    let mut family = to.encode_descriptor(metric, help, None, kind)?;
    values.iter().try_for_each(|(labels, value)| write(value.clone(), family.encode_family(labels)?))
}
