//! `cairn qos set|show|clear`.

use cairn_engine::{Held, Limits, QosInfo, QosTarget, VolumeStats};
use cairn_service::{Client, Failure, api, qos::Changes};
use std::collections::BTreeMap;

use super::with_pool;
use crate::{
    args::{ClearArgs, Global, QosCommand, SetArgs},
    output::{Fields, Output, Side, Table},
    size::Bytes,
    time::span,
};

pub(super) async fn run(global: &Global, command: QosCommand, output: &Output) -> Result<(), Failure> {
    with_pool(global, output, async |session| {
        let client = session.client();
        match command {
            QosCommand::Set(args) => set(client, args, output).await,
            QosCommand::Show { target: Some(target) } => {
                let target = target.parse()?;
                let mut info = client.qos(&target).await?;
                if !matches!(target, QosTarget::Volume(_)) {
                    info.held = held_at(&info, &client.volume_stats().await?.volumes);
                }
                output.result(&info, one(&info))
            }
            QosCommand::Show { target: None } => {
                let qos = client.qos_list().await?;
                let table = all(&qos);
                output.result(&api::QosList { qos }, table)
            }
            QosCommand::Clear(args) => clear(client, args, output).await,
        }
    })
    .await
}

async fn set(client: &Client, args: SetArgs, output: &Output) -> Result<(), Failure> {
    let changes = args.changes.into_iter().map(|(key, value)| (key, Some(value)));
    let info = client.set_qos(&args.target.parse()?, &Changes(changes.collect())).await?;
    output.result(&info, said(&info))
}

async fn clear(client: &Client, args: ClearArgs, output: &Output) -> Result<(), Failure> {
    let target = args.target.parse()?;
    let info = match args.keys.as_slice() {
        [] => client.clear_qos(&target).await?,
        keys => client.set_qos(&target, &Changes(keys.iter().map(|key| (key.clone(), None)).collect())).await?,
    };
    output.result(&info, said(&info))
}

/// What a group or the pool held back: volumes count it, each for all levels.
fn held_at(info: &QosInfo, volumes: &[VolumeStats]) -> BTreeMap<String, Held> {
    let is_pool = info.target == "/";
    let counts =
        |what: &str| if is_pool { what.starts_with("pool:") || what == "share" } else { what.starts_with("group:") };
    let mut sums: BTreeMap<String, Held> = BTreeMap::new();
    for volume in volumes.iter().filter(|volume| is_pool || info.members.contains(&volume.name)) {
        for (what, held) in volume.held.iter().filter(|(what, _)| counts(what)) {
            let sum = sums.entry(what.clone()).or_default();
            sum.requests = sum.requests.saturating_add(held.requests);
            sum.nanos = sum.nanos.saturating_add(held.nanos);
        }
    }
    sums
}

/// What holds from now on, in one line.
fn said(info: &QosInfo) -> String {
    let group = info.group.as_ref().map(|group| format!("group={group}"));
    let words: Vec<String> = info.limits.iter().map(|(key, value)| setting(key, value)).chain(group).collect();
    let words = if words.is_empty() { "no limits".to_owned() } else { words.join(" ") };
    format!("{}: {words}", info.target)
}

fn setting(key: &str, value: u64) -> String {
    format!("{key}={}", amount(key, value))
}

/// A value as `qos set` takes it.
fn amount(key: &str, value: u64) -> String {
    let in_bytes = key == "size_iops_sec" || (key.contains("_bytes_sec") && !key.ends_with("_max_length"));
    let units = [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")];
    let whole = units.into_iter().find(|(shift, _)| in_bytes && value > 0 && value.trailing_zeros() >= *shift);
    whole.map_or_else(|| value.to_string(), |(shift, unit)| format!("{}{unit}", value >> shift))
}

// ---- for people ----

fn all(list: &[QosInfo]) -> Table {
    let mut table = Table::new(&[
        ("TARGET", Side::Left),
        ("GROUP", Side::Left),
        ("VOLUMES", Side::Right),
        ("WAITING", Side::Right),
        ("HELD BACK", Side::Right),
        ("LIMITS", Side::Left),
    ]);
    for info in list {
        // Only volumes count what was held back, each for all levels.
        let of_volume = |text: String| if info.target.starts_with('/') { "-".to_owned() } else { text };
        let members = if info.target.len() > 1 && info.target.starts_with('/') {
            info.members.len().to_string()
        } else {
            "-".to_owned()
        };
        let held = info.held.values().fold(0u64, |sum, held| sum.saturating_add(held.requests));
        let limits: Vec<String> = info.limits.iter().map(|(key, value)| setting(key, value)).collect();
        table.row([
            info.target.clone(),
            info.group.as_ref().map_or_else(|| "-".to_owned(), |group| format!("/{group}")),
            members,
            of_volume(info.waiting.to_string()),
            of_volume(held.to_string()),
            if limits.is_empty() { "-".to_owned() } else { limits.join(" ") },
        ]);
    }
    table
}

fn one(info: &QosInfo) -> String {
    let (is_pool, is_group) = (info.target == "/", info.target.starts_with('/'));
    let mut fields = Fields::new();
    fields.add("target", &info.target).add_some("group", info.group.as_ref().map(|group| format!("/{group}")));
    if is_group && !is_pool {
        fields.add("volumes", if info.members.is_empty() { "none".to_owned() } else { info.members.join(", ") });
    }
    fields.add_some("queue depth", info.queue_depth);
    fields.add_some("weight", info.limits.get("weight"));
    fields.add_some("reserved", info.limits.get("reserve_iops_sec").map(|rate| format!("{rate}/s")));
    fields.add_some("request size", info.limits.get("size_iops_sec").map(Bytes));
    if !is_group {
        fields.add("waiting", info.waiting);
    }
    let mut parts = vec![fields.to_string()];
    if info.rates.is_empty() {
        parts.push("no limits of its own".to_owned());
    } else {
        parts.push(rates(info).to_string());
    }
    if !info.held.is_empty() {
        parts.push(held(info).to_string());
    }
    parts.join("\n\n")
}

fn rates(info: &QosInfo) -> Table {
    let mut table = Table::new(&[
        ("LIMIT", Side::Left),
        ("RATE", Side::Right),
        ("BURST", Side::Left),
        ("BY SIZE", Side::Left),
        ("CREDITS", Side::Right),
    ]);
    for (key, rate) in &info.rates {
        let credit = info.credits.get(key).map_or_else(|| "-".to_owned(), |credit| counted(key, *credit));
        table.row([
            key.clone(),
            format!("{}/s", quantity(key, *rate)),
            burst(&info.limits, key),
            by_size(&info.limits, key),
            credit,
        ]);
    }
    table
}

fn burst(limits: &Limits, key: &str) -> String {
    let seconds = limits.get(&format!("{key}_max_length")).unwrap_or(1);
    let max = limits.get(&format!("{key}_max"));
    max.map_or_else(|| "-".to_owned(), |max| format!("{}/s for {seconds} s", quantity(key, max)))
}

fn by_size(limits: &Limits, key: &str) -> String {
    let Some(per_gb) = limits.get(&format!("{key}_per_gb")) else { return "-".to_owned() };
    let floor = limits.get(&format!("{key}_per_gb_min"));
    let floor = floor.map_or_else(String::new, |floor| format!(", at least {}", quantity(key, floor)));
    format!("{} a GiB{floor}", quantity(key, per_gb))
}

fn quantity(key: &str, value: u64) -> String {
    if key.contains("_bytes_sec") { Bytes(value).to_string() } else { value.to_string() }
}

fn counted(key: &str, credit: i64) -> String {
    let sign = if credit < 0 { "-" } else { "" };
    format!("{sign}{}", quantity(key, credit.unsigned_abs()))
}

fn held(info: &QosInfo) -> Table {
    let mut table = Table::new(&[
        ("HELD BACK BY", Side::Left),
        ("REQUESTS", Side::Right),
        ("EACH FOR", Side::Right),
        ("TOGETHER", Side::Right),
    ]);
    for (what, held) in &info.held {
        let each = held.nanos.checked_div(held.requests).unwrap_or(0);
        table.row([what.clone(), held.requests.to_string(), span(each), span(held.nanos)]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use cairn_engine::{Flows, VolumeId};

    fn info(target: &str, limits: &str, size: u64) -> QosInfo {
        let limits: Limits = limits.parse().unwrap();
        let rates = limits.effective(size).iter().map(|rate| (rate.key.name().to_owned(), rate.rate)).collect();
        QosInfo {
            target: target.to_owned(),
            limits,
            rates,
            group: None,
            members: Vec::new(),
            queue_depth: None,
            credits: BTreeMap::new(),
            held: BTreeMap::new(),
            waiting: 0,
        }
    }

    #[test]
    fn values_are_shown_as_they_are_taken() {
        let text = "read_bytes_sec=1536KiB read_iops_sec=1048576 size_iops_sec=64KiB write_bytes_sec=1000001";
        let info = info("db", text, 0);
        assert_eq!(said(&info), format!("db: {text}"));
        assert_eq!(said(&info).strip_prefix("db: ").unwrap().parse::<Limits>().unwrap(), info.limits);
    }

    #[test]
    fn one_is_told_with_what_its_limits_come_to() {
        let mut db =
            info("db", "read_iops_sec_per_gb=10 read_iops_sec_per_gb_min=100 read_iops_sec_max=2000", 50 << 30);
        db.group = Some("gold".into());
        db.credits.insert("read_iops_sec".into(), -3);
        db.held.insert("volume:read_iops_sec".into(), Held { requests: 4, nanos: 6_000_000_000 });
        let text = one(&db);
        let lines: Vec<Vec<&str>> =
            text.lines().map(|l| l.split("  ").filter(|w| !w.is_empty()).map(str::trim).collect()).collect();
        assert_eq!(lines[1], ["group", "/gold"]);
        assert!(
            lines.contains(&vec!["read_iops_sec", "500/s", "2000/s for 1 s", "10 a GiB, at least 100", "-3"]),
            "{text}"
        );
        assert!(lines.contains(&vec!["volume:read_iops_sec", "4", "1.5 s", "6 s"]), "{text}");
        assert!(one(&info("/", "", 0)).ends_with("no limits of its own"));
    }

    #[test]
    fn a_group_is_told_what_its_volumes_waited_for() {
        let volume = |name: &str, held: [(&str, u64); 3]| VolumeStats {
            id: Some(VolumeId(1)),
            name: name.to_owned(),
            flows: Flows::default(),
            in_flight: 0,
            waiting: 0,
            held: held.into_iter().map(|(what, n)| (what.to_owned(), Held { requests: n, nanos: n * 10 })).collect(),
            allocated: 0,
            size: 0,
        };
        let volumes = [
            volume("a", [("group:read_iops_sec", 1), ("pool:read_iops_sec", 2), ("share", 3)]),
            volume("b", [("group:read_iops_sec", 4), ("volume:read_iops_sec", 5), ("share", 6)]),
            volume("c", [("group:read_iops_sec", 7), ("pool:read_iops_sec", 8), ("share", 9)]),
        ];
        let mut gold = info("/gold", "read_iops_sec=5", 0);
        gold.members = vec!["a".to_owned(), "b".to_owned()];
        let of = |held: &BTreeMap<String, Held>| {
            held.iter().map(|(what, h)| format!("{what} {} {}", h.requests, h.nanos)).collect::<Vec<_>>()
        };
        assert_eq!(of(&held_at(&gold, &volumes)), ["group:read_iops_sec 5 50"]);
        assert_eq!(of(&held_at(&info("/", "", 0), &volumes)), ["pool:read_iops_sec 10 100", "share 18 180"]);
    }
}
