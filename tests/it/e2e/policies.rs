//! How careful a ripple is: several servers at a time.

use crate::support::cluster::{Cluster, Shape};
use crate::support::load::{Lane, Load, brief};
use crate::support::release::shop;

fn loaded(cluster: &Cluster) -> Load {
    cluster.deploy(&shop("1.0.0"));
    Load::start(cluster, vec![Lane::to("shop", 80.0, brief()).versions(&["1.0.0", "2.0.0"])])
}

#[test]
fn a_batch_of_two_takes_two_of_four_servers_out_at_a_time_and_loses_nothing() {
    let cluster = Cluster::shaped(Shape { servers: 4, ..Shape::default() });
    let load = loaded(&cluster);
    let ran = cluster.deploy_with(&shop("2.0.0").slowly(0.0, 1.0), &["--batch", "2"]);
    assert_eq!(ran.code, 0, "{ran:?}");
    cluster.until_serves("shop", "2.0.0", 4);
    load.answered_by("2.0.0");
    load.finish().nothing_lost(&cluster);
    let receipt = cluster.receipt(cluster.last_ripple("shop").id.as_str());
    let kept = receipt.kept_serving.clone().unwrap();
    assert_eq!((kept.min_serving, kept.lowest, kept.servers), (2, 2, 4), "{receipt:#?}");
    assert!(receipt.balanced && receipt.failures.is_empty(), "{receipt:#?}");
}
