//! `cairn regroup`: a volume's data in its order again.

use cairn_engine::{
    BLOCK, ErrorKind, Pace, RegroupEnd, RegroupOptions, RegroupOutcome, RegroupProgress, RegroupReport, RegroupStatus,
};
use cairn_service::{Client, Failure};
use std::process::ExitCode;

use super::{interrupted, with_pool};
use crate::{
    args::{Global, RegroupArgs},
    exit,
    output::Output,
    progress,
    size::Bytes,
    time::iso_utc,
};

pub(super) async fn run(global: &Global, args: RegroupArgs, output: &Output) -> Result<ExitCode, Failure> {
    with_pool(global, output, async |session| {
        let client = session.client();
        if args.cancel {
            let outcome = client.cancel_regroup().await?;
            output.result(&outcome, told(&outcome))?;
            return Ok(code(&outcome));
        }
        if let Some(pace) = args.set_rate {
            let running = client.set_regroup_pace(pace).await?;
            output.result(&running, format!("regroup {} goes on, {}", running.number, paced(pace)))?;
            return Ok(ExitCode::SUCCESS);
        }
        let Some(volume) = &args.volume else {
            let status = client.regroup_status().await?;
            output.result(&status, status_of(&status))?;
            return Ok(ExitCode::SUCCESS);
        };
        if args.detach && !session.is_served() {
            let text = "nobody would go on with the regroup: serve the pool (cairn serve), or leave out --detach";
            return Err(Failure::new(ErrorKind::Invalid, text));
        }
        let options = RegroupOptions { pace: args.rate, dry_run: args.dry_run };
        let started = client.start_regroup(volume, options).await?;
        if args.detach {
            let text = format!("regroup {} has begun, {}; see --status", started.number, paced(args.rate));
            output.result(&started, text)?;
            return Ok(ExitCode::SUCCESS);
        }
        wait(client, started, output).await
    })
    .await
}

/// Waits for the end of a regroup; an interrupt ends it.
async fn wait(client: &Client, started: RegroupProgress, output: &Output) -> Result<ExitCode, Failure> {
    let bar = progress::transfer(output, "regrouping".into(), started.total);
    let watched = client.watch_regroup(|running: RegroupProgress| {
        bar.set_length(running.total);
        bar.set_position(running.done);
        bar.set_message(format!("regrouping, {} moved", Bytes(running.moved)));
    });
    let outcome = tokio::select! {
        outcome = watched => match outcome {
            // It was through before anybody watched.
            Err(failure) if failure.kind == ErrorKind::NotFound => match client.regroup_status().await?.last {
                Some(last) if last.number == started.number => Ok(last),
                _ => Err(failure),
            },
            outcome => outcome,
        },
        failure = interrupted() => {
            // It may have ended by itself just now.
            drop(client.cancel_regroup().await);
            Err(failure.within("the regroup was cancelled; what was moved stays moved"))
        }
    };
    bar.finish_and_clear();
    let outcome = outcome?;
    let why = || outcome.why.clone().unwrap_or_default();
    let failure = match outcome.end {
        RegroupEnd::Finished => None,
        RegroupEnd::Cancelled => Some((ErrorKind::Closed, "the regroup was cancelled by somebody else".to_owned())),
        RegroupEnd::Deleted => Some((ErrorKind::NotFound, why())),
        RegroupEnd::NoSpace => Some((ErrorKind::NoSpace, why())),
        RegroupEnd::Failed => Some((ErrorKind::Io, why())),
    };
    output.result(&outcome, told(&outcome))?;
    match failure {
        Some((kind, text)) => Err(Failure::new(kind, text)),
        None => Ok(code(&outcome)),
    }
}

fn code(outcome: &RegroupOutcome) -> ExitCode {
    match outcome.report.damaged_blocks {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(exit::CORRUPT),
    }
}

fn paced(pace: Pace) -> String {
    match pace.bytes_per_second {
        Some(rate) => format!("at most {} a second", Bytes(rate)),
        None => "as fast as the device and the limits allow".to_owned(),
    }
}

fn status_of(status: &RegroupStatus) -> String {
    let mut lines = Vec::new();
    match &status.running {
        Some(running) => lines.push(format!(
            "regroup {} of {} under way since {}: {} of {} ({} %) looked at, {} {}, {}",
            running.number,
            running.volume,
            iso_utc(running.started_ms),
            Bytes(running.done),
            Bytes(running.total),
            u128::from(running.done) * 100 / u128::from(running.total.max(1)),
            Bytes(running.moved),
            if running.dry_run { "to move" } else { "moved" },
            paced(running.pace)
        )),
        None => lines.push("no regroup is under way".to_owned()),
    }
    if let Some(last) = &status.last {
        lines.push(format!("regroup {} of {} ended at {}:", last.number, last.volume, iso_utc(last.ended_ms)));
        lines.push(told(last));
    }
    lines.join("\n")
}

fn told(outcome: &RegroupOutcome) -> String {
    let RegroupReport { ranges, scattered, runs_before, runs_after, moved_blocks, .. } = outcome.report;
    let report = &outcome.report;
    let moved = Bytes(moved_blocks * BLOCK);
    let mut lines = vec![match outcome.dry_run {
        true => format!(
            "{scattered} of {ranges} MiB are scattered: {moved} to move, from {runs_before} runs to about {runs_after}"
        ),
        false => {
            format!("{scattered} of {ranges} MiB were scattered: {moved} moved, {runs_before} runs became {runs_after}")
        }
    }];
    let blocks = |n: u64| if n == 1 { "1 block".to_owned() } else { format!("{n} blocks") };
    if report.shared_blocks > 0 {
        lines.push(format!("left where snapshots or clones share them: {}", blocks(report.shared_blocks)));
    }
    if report.changed_blocks > 0 {
        lines.push(format!("left since they changed meanwhile: {}", blocks(report.changed_blocks)));
    }
    if report.left_ranges > 0 {
        lines.push(format!("left since free space is in pieces too small: {} MiB", report.left_ranges));
    }
    lines.extend(report.damaged.iter().map(|damage| format!("damaged: {damage}")));
    if report.left_out > 0 {
        lines.push(format!("and {} more damaged ranges that are not listed", report.left_out));
    }
    match (outcome.end, &outcome.why) {
        (RegroupEnd::Finished, _) => {}
        (_, Some(why)) => lines.push(format!("ended early: {why}")),
        (_, None) => lines.push("cancelled before it was through".to_owned()),
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_says_what_was_moved_and_what_stays() {
        let report = RegroupReport {
            ranges: 16,
            scattered: 12,
            runs_before: 3000,
            runs_after: 20,
            moved_blocks: 2816,
            shared_blocks: 1,
            left_ranges: 2,
            ..RegroupReport::default()
        };
        let mut outcome = RegroupOutcome {
            number: 1,
            volume: "db".into(),
            dry_run: false,
            started_ms: 0,
            ended_ms: 0,
            end: RegroupEnd::Finished,
            why: None,
            report,
        };
        assert_eq!(
            told(&outcome),
            "12 of 16 MiB were scattered: 11 MiB moved, 3000 runs became 20\nleft where snapshots or clones share them: 1 block\n\
             left since free space is in pieces too small: 2 MiB"
        );
        outcome.end = RegroupEnd::NoSpace;
        outcome.why = Some("the pool is nearly full".into());
        assert!(told(&outcome).ends_with("\nended early: the pool is nearly full"));
        outcome.dry_run = true;
        assert!(told(&outcome).starts_with("12 of 16 MiB are scattered: 11 MiB to move, "));
    }
}
