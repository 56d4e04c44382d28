//! `cairn pool check|scrub`: what keeps a pool sound.

use cairn_engine::{
    CheckReport, ErrorKind, OpenOptions, Pace, RepairPlan, RepairReport, ScrubOutcome, ScrubProgress, ScrubReport,
    ScrubStatus,
};
use cairn_service::{Client, Failure};
use serde::Serialize;
use std::{
    io::{self, IsTerminal, Write},
    process::ExitCode,
};

use super::{interrupted, with_pool, with_pool_as};
use crate::{
    args::{CheckArgs, Global, ScrubArgs},
    exit,
    output::Output,
    progress,
    size::Bytes,
    time::iso_utc,
};

fn code(sound: bool) -> ExitCode {
    if sound { ExitCode::SUCCESS } else { ExitCode::from(exit::CORRUPT) }
}

// ---- check ----

pub(super) async fn check(global: &Global, args: CheckArgs, output: &Output) -> Result<ExitCode, Failure> {
    with_pool(global, output, async |session| {
        let bar = progress::steps(output, "checking".into());
        let report = session.client().check(args.read_data, |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        let report = report.await;
        bar.finish_and_clear();
        let report = report?;
        output.result(&report, checked(&report, args.read_data))?;
        Ok(code(report.is_clean()))
    })
    .await
}

fn checked(report: &CheckReport, read_data: bool) -> String {
    let mut text = format!("{} versions, {} nodes, {} data blocks", report.versions, report.nodes, report.data_blocks);
    if read_data {
        text += &format!(", {} of them read and verified", report.data_verified);
    }
    text += &format!("\n{} superblock copies, {} pieces of the free map", report.superblocks, report.map_pieces);
    if report.leaked_blocks > 0 {
        text += &format!("\n{} blocks are marked as used and nothing refers to them", report.leaked_blocks);
    }
    for problem in &report.problems {
        text += &format!("\nproblem: {problem}");
    }
    match report.problems.len() {
        0 => text + "\nclean",
        1 => text + "\n1 problem found",
        problems => text + &format!("\n{problems} problems found"),
    }
}

// ---- repair ----

/// What a repair says, for programs: one line.
#[derive(Serialize)]
struct Repair<'a> {
    plan: &'a RepairPlan,
    /// None when nothing was changed.
    report: Option<RepairReport>,
}

pub(super) async fn repair(global: &Global, args: CheckArgs, output: &Output) -> Result<ExitCode, Failure> {
    // A pool that nobody holds is opened so that nothing is written before the plan is agreed to.
    with_pool_as(global, output, OpenOptions::new().repair(true), async |session| {
        let bar = progress::steps(output, "checking".into());
        let plan = session.client().plan_repair(args.read_data, |done, total| {
            bar.set_length(total);
            bar.set_position(done);
        });
        let plan = plan.await;
        bar.finish_and_clear();
        let plan = plan?;
        if plan.actions.is_empty() {
            output.result(&Repair { plan: &plan, report: None }, planned(&plan))?;
            return Ok(code(plan.is_clean()));
        }
        if !output.is_json() {
            output.raw(&format!("{}\n", planned(&plan)))?;
        }
        if !args.yes && !agreed(output)? {
            if output.is_json() {
                output.result(&Repair { plan: &plan, report: None }, "")?;
            }
            let text = "nothing was changed: carry out this plan with --repair --yes";
            return Err(Failure::new(ErrorKind::Invalid, text));
        }
        carry_out(session.client(), &plan, output).await
    })
    .await
}

async fn carry_out(client: &Client, plan: &RepairPlan, output: &Output) -> Result<ExitCode, Failure> {
    let bar = progress::steps(output, "repairing".into());
    let report = client.repair(plan, |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    });
    let report = report.await;
    bar.finish_and_clear();
    let report = report?;
    let sound = report.check.is_clean() && plan.unrepaired.is_empty();
    let text = format!("repaired\n{}", checked(&report.check, false));
    output.result(&Repair { plan, report: Some(report) }, text)?;
    Ok(code(sound))
}

fn planned(plan: &RepairPlan) -> String {
    let mut lines = Vec::new();
    lines.extend(plan.actions.iter().map(|action| format!("to do: {}: {}", action.step, action.why)));
    lines.extend(plan.unrepaired.iter().map(|damage| format!("not repaired: {damage}")));
    if plan.actions.is_empty() {
        lines
            .push(if plan.is_clean() { "clean: nothing to repair" } else { "nothing that can be repaired" }.to_owned());
    }
    lines.join("\n")
}

/// Asks, where there is somebody to ask.
fn agreed(output: &Output) -> Result<bool, Failure> {
    let (input, mut error) = (io::stdin(), io::stderr());
    if output.is_json() || !input.is_terminal() || !error.is_terminal() {
        return Ok(false);
    }
    let fail = |e| Failure::from(cairn_engine::Error::io("terminal", e));
    write!(error, "Carry out this plan? [y/N] ").and_then(|()| error.flush()).map_err(fail)?;
    let mut answer = String::new();
    input.read_line(&mut answer).map_err(fail)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

// ---- scrub ----

pub(super) async fn scrub(global: &Global, args: ScrubArgs, output: &Output) -> Result<ExitCode, Failure> {
    with_pool(global, output, async |session| {
        let client = session.client();
        if args.status {
            let status = client.scrub_status().await?;
            output.result(&status, status_of(&status))?;
            let found = status.running.as_ref().map_or(0, |r| r.damaged_blocks);
            let before = status.last.as_ref().map_or(0, |last| last.report.damaged_blocks);
            return Ok(code(found + before == 0));
        }
        if let Some(pace) = args.set_rate {
            let running = client.set_scrub_pace(pace).await?;
            output.result(&running, format!("scrub {} goes on, {}", running.number, paced(pace)))?;
            return Ok(ExitCode::SUCCESS);
        }
        if args.cancel {
            let outcome = client.cancel_scrub().await?;
            output.result(&outcome, scrubbed(&outcome))?;
            return Ok(code(outcome.report.is_clean()));
        }
        if args.detach && !session.is_served() {
            let text = "nobody would go on with the scrub: serve the pool (cairn serve), or leave out --detach";
            return Err(Failure::new(ErrorKind::Invalid, text));
        }
        let started = client.start_scrub(args.rate).await?;
        if args.detach {
            let text = format!("scrub {} has begun, {}; see --status", started.number, paced(args.rate));
            output.result(&started, text)?;
            return Ok(ExitCode::SUCCESS);
        }
        wait(client, started, output).await
    })
    .await
}

/// Waits for the end of a scrub; an interrupt ends it.
async fn wait(client: &Client, started: ScrubProgress, output: &Output) -> Result<ExitCode, Failure> {
    let bar = progress::transfer(output, "scrubbing".into(), started.total);
    let watched = client.watch_scrub(|running: ScrubProgress| {
        bar.set_length(running.total);
        bar.set_position(running.done);
        if running.damaged_blocks > 0 {
            bar.set_message(format!("scrubbing, {} damaged", running.damaged_blocks));
        }
    });
    let outcome = tokio::select! {
        outcome = watched => match outcome {
            // It was through before anybody watched.
            Err(failure) if failure.kind == ErrorKind::NotFound => match client.scrub_status().await?.last {
                Some(last) if last.number == started.number => Ok(last),
                _ => Err(failure),
            },
            outcome => outcome,
        },
        failure = interrupted() => {
            // It may have ended by itself just now.
            drop(client.cancel_scrub().await);
            Err(failure.within("the scrub was cancelled"))
        }
    };
    bar.finish_and_clear();
    let outcome = outcome?;
    output.result(&outcome, scrubbed(&outcome))?;
    if outcome.cancelled && outcome.report.is_clean() {
        return Err(Failure::new(ErrorKind::Closed, "the scrub was cancelled by somebody else"));
    }
    Ok(code(outcome.report.is_clean()))
}

fn paced(pace: Pace) -> String {
    match pace.bytes_per_second {
        Some(rate) => format!("at most {} a second", Bytes(rate)),
        None => "as fast as the device answers".to_owned(),
    }
}

fn status_of(status: &ScrubStatus) -> String {
    let mut lines = Vec::new();
    match &status.running {
        Some(running) => {
            lines.push(format!(
                "scrub {} under way since {}: {} of {} ({} %), {} a second, {}",
                running.number,
                iso_utc(running.started_ms),
                Bytes(running.done),
                Bytes(running.total),
                running.done * 100 / running.total.max(1),
                Bytes(running.rate),
                paced(running.pace)
            ));
            lines.extend(running.current.as_ref().map(|current| format!("now at {current}")));
            lines.push(format!("{} damaged blocks so far", running.damaged_blocks));
        }
        None => lines.push("no scrub is under way".to_owned()),
    }
    if let Some(last) = &status.last {
        lines.push(format!("scrub {} ended at {}:", last.number, iso_utc(last.ended_ms)));
        lines.push(scrubbed(last));
    }
    lines.join("\n")
}

fn scrubbed(outcome: &ScrubOutcome) -> String {
    let ScrubReport { versions, data_blocks, nodes, table_blocks, map_pieces, superblocks, bytes, .. } = outcome.report;
    let mut lines = vec![format!(
        "{versions} versions, {data_blocks} data blocks, {nodes} nodes, {table_blocks} blocks of the version table, {map_pieces} \
         pieces of the free map, {superblocks} superblock copies: {} read",
        Bytes(bytes)
    )];
    lines.extend(outcome.report.damaged.iter().map(|damage| format!("damaged: {damage}")));
    if outcome.report.left_out > 0 {
        lines.push(format!("and {} more damaged ranges that are not listed", outcome.report.left_out));
    }
    if outcome.cancelled {
        lines.push("cancelled before it was through".to_owned());
    }
    lines.push(match outcome.report.damaged_blocks {
        0 if outcome.cancelled => "nothing damaged until then".to_owned(),
        0 => "clean".to_owned(),
        1 => "1 damaged block found".to_owned(),
        blocks => format!("{blocks} damaged blocks found"),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_engine::{Damage, DamageKind, RepairAction, RepairStep};

    #[test]
    fn a_report_says_what_is_wrong() {
        let mut report = CheckReport { versions: 3, ..CheckReport::default() };
        assert!(checked(&report, false).ends_with("\nclean"));
        report.problems.push("node 17 does not match its checksum".into());
        let text = checked(&report, true);
        assert!(text.contains("\nproblem: node 17") && text.ends_with("\n1 problem found"), "{text}");
    }

    #[test]
    fn a_scrub_says_who_is_hurt() {
        let damage = Damage {
            volume: Some("db".into()),
            snapshot: Some("a".into()),
            offset: 8192,
            length: 4096,
            physical: 77,
            blocks: 1,
            what: DamageKind::Data,
            cause: "fails its checksum".into(),
        };
        let report = ScrubReport { damaged_blocks: 1, damaged: vec![damage], ..ScrubReport::default() };
        let mut outcome = ScrubOutcome { number: 1, started_ms: 0, ended_ms: 0, cancelled: false, report };
        let text = scrubbed(&outcome);
        assert!(
            text.contains("\ndamaged: db@a: 4096 bytes at offset 8192: data at physical block 77 fails its checksum\n")
        );
        assert!(text.ends_with("\n1 damaged block found"), "{text}");
        outcome.report = ScrubReport::default();
        assert!(scrubbed(&outcome).ends_with("\nclean"));
        outcome.cancelled = true;
        assert!(scrubbed(&outcome).ends_with("until then"));
    }

    #[test]
    fn a_plan_says_what_stays() {
        assert!(planned(&RepairPlan::default()).ends_with("nothing to repair"));
        let step = RepairStep::FreeBlocks { blocks: 3 };
        let plan = RepairPlan {
            actions: vec![RepairAction { step, why: "nothing refers to them".into() }],
            unrepaired: vec!["node 5; restore it from a backup".into()],
        };
        let text = planned(&plan);
        assert_eq!(
            text,
            "to do: give back 3 blocks: nothing refers to them\nnot repaired: node 5; restore it from a backup"
        );
    }
}
