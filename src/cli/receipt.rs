//! Owns how a receipt reads. Must not know how it came about.

use std::time::{Duration, Instant};

use super::Ctx;
use super::failure::Failure;
use super::out::{self, Format, count, millis};
use crate::domain::names::RippleId;
use crate::wire::api::{Exposure, Receipt, RippleKind, RippleView, path};

/// Between two looks at a receipt that is not closed.
const POLL: Duration = Duration::from_millis(100);
/// Longest wait for a receipt to be closed.
const PATIENCE: Duration = Duration::from_secs(10);

/// The path of a ripple's receipt.
pub fn receipt_path(id: &RippleId) -> String {
    path::RIPPLE_RECEIPT.replace("{id}", id.as_str())
}

/// After a ripple that was watched: its receipt, in short. That there is none is said, and harms nothing.
pub async fn sum_up(ctx: &Ctx, ripple: &RippleView) -> Result<(), Failure> {
    if ripple.is_of_nodes() {
        // Its programs have receipts, and it has none.
        return Ok(());
    }
    match closed(ctx, &ripple.id).await {
        Some(receipt) if ctx.out.format == Format::Table => ctx.out.text(&verdict(&receipt))?,
        Some(receipt) => ctx.out.say(&verdict(&receipt)),
        None => ctx.out.say("its receipt is not to be had now"),
    }
    ctx.out.say(&format!("the whole receipt: neap ripple receipt {}", ripple.id));
    Ok(())
}

/// Of an upgrade that was no good: how many requests met its version, until it was back where that was done.
pub async fn met(ctx: &Ctx, ripple: &RippleView) -> Option<String> {
    if ripple.kind != RippleKind::Upgrade || ripple.program.is_none() {
        return None;
    }
    let receipt = closed(ctx, ripple.undone_by.as_ref().unwrap_or(&ripple.id)).await?;
    receipt.exposure.as_ref().map(exposure)
}

/// "12 of 480 requests met 2.0.0 (2.50 %)".
fn exposure(exposure: &Exposure) -> String {
    let Exposure { version, met, of, share_ppm } = exposure;
    format!("{met} of {of} requests met {version} ({:.2} %)", f64::from(*share_ppm) / 10_000.0)
}

/// The receipt when every ledger is read, which takes a moment after the ripple's end; or as it stands by then.
async fn closed(ctx: &Ctx, ripple: &RippleId) -> Option<Receipt> {
    let until = Instant::now() + ctx.client.time_left().unwrap_or(PATIENCE).min(PATIENCE);
    loop {
        let receipt = ctx.client.get::<Receipt>(&receipt_path(ripple), &[]).await.ok();
        let open = receipt.as_ref().is_some_and(|receipt| receipt.ended_at.is_none());
        if !open || Instant::now() >= until {
            return receipt;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Whether nothing was lost.
pub fn clean(receipt: &Receipt) -> bool {
    receipt.balanced
        && receipt.unaccounted == 0
        && receipt.accounts.iter().all(|account| account.cut == 0 && account.failed == 0 && account.balances())
}

/// The receipt in a line or two.
pub fn verdict(receipt: &Receipt) -> String {
    let sum = |of: fn(&crate::wire::api::Account) -> u64| receipt.accounts.iter().map(of).sum::<u64>();
    let (cut, failed) = (sum(|account| account.cut), sum(|account| account.failed));
    let totals = format!(
        "{} admitted, {} completed ({} of them 5xx), {} client left, {cut} cut, {failed} failed",
        sum(|account| account.admitted),
        sum(|account| account.completed),
        sum(|account| account.completed_5xx),
        sum(|account| account.client_left),
    );
    let judged = match (clean(receipt), receipt.balanced && receipt.unaccounted == 0) {
        (true, _) => "nothing lost, and the account balances",
        (false, true) => "the account balances, and not every request ended well",
        (false, false) => "the account does NOT balance",
    };
    let so_far = if receipt.ended_at.is_none() { "so far: " } else { "" };
    format!("{so_far}{judged}: {totals}")
}

/// The whole receipt, as a person reads it.
pub fn text(receipt: &Receipt) -> String {
    let mut parts = vec![head(receipt), accounts(receipt), flows(receipt)];
    parts.extend(sessions(receipt));
    parts.extend(out_of_service(receipt));
    parts.extend(neighbours(receipt));
    parts.extend(failures(receipt));
    parts.push(verdict(receipt));
    parts.join("\n\n")
}

fn sessions(receipt: &Receipt) -> Option<String> {
    let crate::wire::api::Sessions { finished, migrated, cut } = receipt.sessions;
    let any = finished + migrated + cut > 0;
    any.then(|| format!("sessions: {finished} finished, {migrated} went on elsewhere, {cut} cut"))
}

fn head(receipt: &Receipt) -> String {
    let versions = match (&receipt.from, &receipt.to) {
        (Some(from), Some(to)) => format!(" {from} → {to}"),
        (None, Some(to)) => format!(" {to}"),
        _ => String::new(),
    };
    let ended = receipt.ended_at.map_or("under way".to_owned(), |ended| format!("to {ended:.0}"));
    format!("receipt of ripple {}: {}{versions}, {:.0} {ended}", receipt.ripple, receipt.program, receipt.started_at)
}

fn accounts(receipt: &Receipt) -> String {
    let header = [
        "SERVER",
        "VERSION",
        "ADMITTED",
        "+ AT START",
        "= COMPLETED",
        "(5XX)",
        "+ CLIENT LEFT",
        "+ CUT",
        "+ FAILED",
        "+ AT END",
        "BALANCES",
    ];
    out::table(
        &header,
        receipt.accounts.iter().map(|account| {
            let mut row = vec![account.server.to_string(), account.version.to_string()];
            let numbers = [
                account.admitted,
                account.active_at_start,
                account.completed,
                account.completed_5xx,
                account.client_left,
                account.cut,
                account.failed,
                account.active_at_end,
            ];
            row.extend(numbers.map(|number| number.to_string()));
            row.push(if account.balances() { "yes" } else { "NO" }.to_owned());
            row
        }),
    )
}

fn flows(receipt: &Receipt) -> String {
    let longest = receipt.held_longest_ms.map(|ms| format!(" (longest {})", millis(ms))).unwrap_or_default();
    let mut text = format!(
        "refused {} · re-dispatched {} · held {}{longest} · unaccounted {}",
        receipt.refused, receipt.redispatched, receipt.held, receipt.unaccounted
    );
    if let Some(told) = &receipt.exposure {
        text.push_str(&format!("\n{}", exposure(told)));
    }
    if let Some(kept) = &receipt.kept_serving {
        let servers = count(kept.servers as usize, "server");
        text.push_str(&format!(
            "\nat least {} of {servers} kept serving (asked for {})",
            kept.lowest, kept.min_serving
        ));
    }
    if !receipt.stale_routers.is_empty() {
        let names: Vec<String> = receipt.stale_routers.iter().map(ToString::to_string).collect();
        text.push_str(&format!("\nrouters that heard late: {}", names.join(", ")));
    }
    text
}

fn out_of_service(receipt: &Receipt) -> Option<String> {
    // Only where a component was replaced meanwhile.
    let command = receipt.out_of_service.iter().any(|out| out.command_ms > 0);
    let mut header = vec!["SERVER", "OUT OF SERVICE", "DRAIN", "STOP", "START", "PROBE"];
    header.extend(command.then_some("COMMAND"));
    (!receipt.out_of_service.is_empty()).then(|| {
        out::table(
            &header,
            receipt.out_of_service.iter().map(|out| {
                let mut row = vec![out.server.to_string()];
                row.extend([out.total_ms(), out.drain_ms, out.stop_ms, out.start_ms, out.probe_ms].map(millis));
                row.extend(command.then(|| millis(out.command_ms)));
                row
            }),
        )
    })
}

fn neighbours(receipt: &Receipt) -> Option<String> {
    let header = [
        "NEIGHBOUR",
        "SERVER",
        "COMPLETED",
        "(5XX)",
        "REFUSED",
        "CUT",
        "FAILED",
        "ERRORS BEFORE/DURING",
        "P99 BEFORE/DURING",
    ];
    (!receipt.neighbours.is_empty()).then(|| {
        out::table(
            &header,
            receipt.neighbours.iter().map(|one| {
                let mut row = vec![one.program.to_string(), one.server.to_string()];
                let numbers = [one.completed, one.completed_5xx, one.refused, one.cut, one.failed];
                row.extend(numbers.map(|number| number.to_string()));
                row.push(both(one.errors_before_ppm, one.errors_ppm, |ppm| {
                    format!("{:.2}%", f64::from(ppm) / 10_000.0)
                }));
                row.push(both(one.p99_before_us, one.p99_us, |us| format!("{:.1}ms", us as f64 / 1_000.0)));
                row
            }),
        )
    })
}

/// "before/during".
fn both<T>(before: Option<T>, during: Option<T>, show: impl Fn(T) -> String) -> String {
    let shown = |told: Option<T>| told.map_or("-".to_owned(), &show);
    format!("{}/{}", shown(before), shown(during))
}

fn failures(receipt: &Receipt) -> Option<String> {
    let header = ["REQUEST", "SERVER", "AT", "REASON"];
    (!receipt.failures.is_empty()).then(|| {
        out::table(
            &header,
            receipt.failures.iter().map(|failure| {
                vec![
                    failure.request_id.clone(),
                    failure.server.to_string(),
                    format!("{:.3}", failure.at),
                    failure.reason.clone(),
                ]
            }),
        )
    })
}
