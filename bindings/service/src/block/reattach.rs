//! QoS specs with `apply=reattach`: a volume that is attached keeps the limits of its type until its next attachment.
//!
//! Invariant: what a volume keeps (`held` of its record) counts only while somebody has been told a way to it by an attachment. It goes with
//! the last of these.

use std::collections::BTreeMap;

use cairn_engine::Limits;

use super::{Block, attachments::none_connected};
use crate::{
    catalog::{Attachment, QosSpec, Tx, Volume, VolumeType},
    fault::{Answer, Fault},
};

/// Key of QoS specs: when a change of them counts for volumes that are attached.
const APPLY: &str = "apply";
const NOW: &str = "now";
const REATTACH: &str = "reattach";

/// What QoS specs come to for volumes of a type.
#[derive(Default)]
struct OfType {
    limits: BTreeMap<String, String>,
    /// Whether volumes that are attached wait for their next attachment.
    waits: bool,
}

/// None: the type has no specs that the engine enforces.
fn of_type(tx: &Tx<'_>, kind: &str) -> Answer<Option<OfType>> {
    let qos = tx.get::<VolumeType>(kind)?.and_then(|found| found.qos_id);
    let specs = qos.map(|id| tx.get::<QosSpec>(&id)).transpose()?.flatten();
    Ok(specs.filter(|specs| specs.consumer.is_ours()).map(|specs| {
        let mut limits = specs.specs;
        let waits = limits.remove(APPLY).is_some_and(|when| when == REATTACH);
        OfType { limits, waits }
    }))
}

fn is_connected(tx: &Tx<'_>, volume: &str) -> Answer<bool> {
    Ok(!none_connected(&tx.found::<Attachment>(&Attachment::of_volume(volume))?))
}

/// What is understood of QoS specs that the engine enforces.
pub(super) fn check_specs(specs: &BTreeMap<String, String>) -> Answer<()> {
    if let Some(when) = specs.get(APPLY).filter(|when| ![NOW, REATTACH].contains(&when.as_str())) {
        let text = format!("Invalid qos specs: apply is {when:?}, and must be \"{NOW}\" or \"{REATTACH}\"");
        return Err(Fault::bad(text));
    }
    let limits = specs.iter().filter(|(key, _)| *key != APPLY);
    let limits = limits.map(|(key, value)| (key.as_str(), Some(value.as_str())));
    Limits::none().changed(limits).map(drop).map_err(|e| Fault::bad(format!("Invalid qos specs: {e}")))
}

/// The limits that a volume of this type has from it now.
pub(super) fn limits_of_type(tx: &Tx<'_>, volume: &Volume, kind: &str) -> Answer<BTreeMap<String, String>> {
    match &volume.held {
        Some(held) if volume.type_id == kind && is_connected(tx, &volume.id)? => Ok(held.clone()),
        _ => Ok(of_type(tx, kind)?.unwrap_or_default().limits),
    }
}

/// Changes what the specs of some types say. Attached volumes of theirs keep what they have, where the specs say so: the new ones, or those
/// that go.
pub(super) fn change_of_types<T>(
    tx: &mut Tx<'_>,
    kinds: &[String],
    change: impl FnOnce(&mut Tx<'_>) -> Answer<T>,
) -> Answer<T> {
    let before = kinds.iter().map(|kind| of_type(tx, kind)).collect::<Answer<Vec<_>>>()?;
    let answer = change(tx)?;
    for (kind, before) in kinds.iter().zip(before) {
        let after = of_type(tx, kind)?;
        let waits = after.as_ref().or(before.as_ref()).is_some_and(|specs| specs.waits);
        let had = before.unwrap_or_default().limits;
        for id in tx.ids(&Volume::of_type(kind))? {
            let volume: Volume = tx.require(&id)?;
            let keeps = waits && is_connected(tx, &id)?;
            let held = keeps.then(|| volume.held.clone().unwrap_or_else(|| had.clone()));
            if held != volume.held {
                tx.put(&Volume { held, ..volume })?;
            }
        }
    }
    Ok(answer)
}

/// A volume has no consumers any more: it keeps nothing. Answers whether it did.
pub(super) fn keep_no_longer(tx: &mut Tx<'_>, volume: &str) -> Answer<bool> {
    let volume: Volume = tx.require(volume)?;
    if volume.held.is_none() {
        return Ok(false);
    }
    tx.put(&Volume { held: None, ..volume })?;
    Ok(true)
}

impl Block {
    /// The limits of a volume that has waited for its consumers to go. They are gone, whatever comes of this; the next start does it again.
    pub(super) async fn stop_waiting(&self, volume: &str) {
        if let Err(fault) = self.apply_limits_to(&[volume.to_owned()]).await {
            tracing::warn!(volume, %fault, "the limits of a detached volume could not be brought to those of its type");
        }
    }
}
