//! Attachments: a volume's ties to consumers, in the present way (`/attachments`) and the older one (actions of the volume).
//!
//! Invariant: a volume's state follows from its attachments: in-use with one that is complete, attaching or reserved with one that is on
//! its way, available with none. One consumer at a time, unless the volume says multiattach.

use serde_json::Value;

use super::{
    Block, Caller,
    reattach::keep_no_longer,
    views::{busy, owned},
    volumes::illegal,
};
use crate::{
    catalog::{Attachment, Tx, Volume, now_us},
    domain::{AttachmentMove, AttachmentStatus, Move, VolumeMove, VolumeStatus, check_label, new_id},
    fault::{Answer, Fault},
};

/// Most attachments of a volume: they are shown together, and loaded together.
const MOST: usize = 64;
/// Longest connector, in bytes of its JSON.
const MAX_CONNECTOR: usize = 16 << 10;

/// An attachment that is wanted.
#[derive(Clone, Debug)]
pub(crate) struct NewAttachment {
    pub(crate) volume: String,
    pub(crate) instance: Option<String>,
    /// Who will use it; when left out, the volume is only reserved.
    pub(crate) connector: Option<Value>,
    /// `rw` or `ro`.
    pub(crate) mode: String,
    /// Whether `os-complete` will come: from microversion 3.44 on.
    pub(crate) completes: bool,
}

/// What the older way says of a consumer.
#[derive(Clone, Debug)]
pub(crate) struct Attach {
    pub(crate) instance: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) mountpoint: Option<String>,
    pub(crate) mode: String,
}

fn check_mode(mode: &str) -> Answer<()> {
    match mode {
        "rw" | "ro" => Ok(()),
        _ => Err(Fault::bad("the mode of an attachment is \"rw\" or \"ro\"")),
    }
}

fn check_connector(connector: &Value) -> Answer<()> {
    if !connector.is_object() {
        return Err(Fault::bad("the connector has to be an object"));
    }
    if connector.to_string().len() > MAX_CONNECTOR {
        let text = format!("the connector has more than {MAX_CONNECTOR} bytes: send what says who the consumer is");
        return Err(Fault::bad(text));
    }
    let said = |key: &'static str| (key, connector.get(key).and_then(Value::as_str));
    [said("host"), said("mountpoint")].into_iter().try_for_each(checked)
}

fn checked((what, text): (&'static str, Option<&str>)) -> Answer<()> {
    text.map_or(Ok(()), |text| check_label(what, text)).map_err(Fault::bad)
}

/// Whether nobody has been told a way to the volume by an attachment.
pub(super) fn none_connected(attachments: &[Attachment]) -> bool {
    attachments.iter().all(|attachment| attachment.status == AttachmentStatus::Reserved)
}

/// The state that the attachments of a volume come to.
fn state_of(attachments: &[Attachment]) -> VolumeStatus {
    let any = |status| attachments.iter().any(|attachment| attachment.status == status);
    match () {
        () if any(AttachmentStatus::Attached) || any(AttachmentStatus::Detaching) => VolumeStatus::InUse,
        () if any(AttachmentStatus::Attaching) => VolumeStatus::Attaching,
        () if any(AttachmentStatus::Reserved) => VolumeStatus::Reserved,
        () => VolumeStatus::Available,
    }
}

fn set_status(tx: &mut Tx<'_>, mut volume: Volume, status: VolumeStatus) -> Answer<Volume> {
    volume.status = status;
    volume.updated_us = Some(now_us());
    tx.put(&volume)?;
    Ok(volume)
}

/// Whether one more consumer may come.
fn has_place(volume: &Volume, others: &[Attachment], instance: Option<&str>) -> Answer<()> {
    if volume.status == VolumeStatus::InUse && !volume.multiattach {
        let text = format!("Invalid volume: volume {} is in-use and not multiattach.", volume.id);
        return Err(Fault::bad(text));
    }
    // The same server may make a second one to move its disk.
    let same = |other: &Attachment| instance.is_some() && other.instance.as_deref() == instance;
    if !volume.multiattach && others.iter().any(|other| !same(other)) {
        let text = format!("Invalid volume: volume {} is reserved or attached already and not multiattach.", volume.id);
        return Err(Fault::bad(text));
    }
    if others.len() >= MOST {
        let text = format!("Invalid volume: volume {} has {MOST} attachments, the most there may be.", volume.id);
        return Err(Fault::bad(text));
    }
    Ok(())
}

impl Block {
    /// Reserves a volume for a consumer, and connects it if the consumer is known: both, or neither.
    pub(crate) async fn create_attachment(&self, caller: &Caller, new: NewAttachment) -> Answer<Attachment> {
        check_mode(&new.mode)?;
        checked(("instance_uuid", new.instance.as_deref()))?;
        let Some(connector) = &new.connector else { return self.change(caller, |tx| reserve(tx, caller, &new)) };
        check_connector(connector)?;
        let _seen: Volume = self.find(caller, &new.volume)?;
        let _tie = self.inner.ties.hold(&new.volume).await;
        // What is refused is so before there is a way to the volume.
        drop(reserve(&mut self.inner.catalog.read(), caller, &new)?);
        let volume: Volume = self.inner.catalog.read().require(&new.volume)?;
        self.end_others_ways(&volume).await?;
        let connection = self.connection(&volume, connector, &new.mode).await?;
        let made = self.change(caller, |tx| {
            let id = reserve(tx, caller, &new)?.id;
            let attachment = to_connect(tx, caller, &id, new.completes)?;
            connect(tx, attachment, connector, connection)
        });
        if made.is_err() {
            self.end_others_ways(&volume).await?;
        }
        made
    }

    /// Tells a consumer how to reach the volume.
    pub(crate) async fn connect_attachment(
        &self,
        caller: &Caller,
        id: &str,
        connector: Value,
        completes: bool,
    ) -> Answer<Attachment> {
        check_connector(&connector)?;
        let found: Attachment = self.find(caller, id)?;
        let _tie = self.inner.ties.hold(&found.volume_id).await;
        let volume: Volume = {
            let tx = self.inner.catalog.read();
            drop(to_connect(&tx, caller, id, completes)?);
            tx.require(&found.volume_id)?
        };
        self.end_others_ways(&volume).await?;
        let connection = self.connection(&volume, &connector, &found.mode).await?;
        self.change(caller, |tx| {
            let attachment = to_connect(tx, caller, id, completes)?;
            connect(tx, attachment, &connector, connection)
        })
    }

    /// Ends what somebody was told who has no attachment, as by `os-initialize_connection`, unless there is a consumer who was told the same.
    /// The caller holds the volume's tie.
    async fn end_others_ways(&self, volume: &Volume) -> Answer<()> {
        let all = self.inner.catalog.read().found::<Attachment>(&Attachment::of_volume(&volume.id))?;
        match none_connected(&all) {
            true => self.disconnect(volume).await,
            false => Ok(()),
        }
    }

    /// The consumer has it.
    pub(crate) fn complete_attachment(&self, caller: &Caller, id: &str) -> Answer<()> {
        self.change(caller, |tx| {
            let mut attachment: Attachment = owned(tx, caller, id)?;
            let fault = |e| Fault::illegal("attachment", id, &e);
            attachment.status = AttachmentMove::Complete.apply(attachment.status).map_err(fault)?;
            attachment.attached_us = Some(now_us());
            tx.put(&attachment)?;
            follow(tx, &attachment.volume_id)
        })
    }

    /// The consumer goes. Answers the attachments that are left.
    pub(crate) async fn delete_attachment(&self, caller: &Caller, id: &str) -> Answer<Vec<Attachment>> {
        let found: Attachment = self.find(caller, id)?;
        self.let_go(caller, &found.volume_id, |tx| {
            let attachment: Attachment = owned(tx, caller, id)?;
            let fault = |e| Fault::illegal("attachment", id, &e);
            let _gone = AttachmentMove::Detach.apply(attachment.status).map_err(fault)?;
            remove(tx, &attachment)
        })
        .await
    }

    /// Ends a tie to a consumer. The ways to the volume go first, with the last that was told one: if the service ends in between, it is detached once more.
    async fn let_go(
        &self,
        caller: &Caller,
        volume: &str,
        detach: impl Fn(&mut Tx<'_>) -> Answer<Vec<Attachment>>,
    ) -> Answer<Vec<Attachment>> {
        let _tie = self.inner.ties.hold(volume).await;
        let found: Volume = self.inner.catalog.read().require(volume)?;
        let left = detach(&mut self.inner.catalog.read())?;
        if none_connected(&left) {
            self.disconnect(&found).await?;
        }
        let (left, waited) = self.change(caller, |tx| {
            let left = detach(tx)?;
            let waited = none_connected(&left) && keep_no_longer(tx, volume)?;
            Ok((left, waited))
        })?;
        if waited {
            self.stop_waiting(volume).await;
        }
        Ok(left)
    }

    // ---- the older way ----

    /// `os-reserve`. What was told of the volume before was for somebody else.
    pub(crate) async fn reserve_volume(&self, caller: &Caller, id: &str) -> Answer<()> {
        let tie = self.inner.ties.hold(id).await;
        let (volume, is_alone) = self.older(caller, id, |tx, mut volume| {
            let others = tx.found::<Attachment>(&Attachment::of_volume(id))?;
            has_place(&volume, &others, None)?;
            let status = VolumeMove::BeginAttach.apply(volume.status).map_err(|e| illegal(&volume, e))?;
            let is_alone = none_connected(&others);
            if is_alone {
                volume.exports.clear();
            }
            Ok((set_status(tx, volume, status)?, is_alone))
        })?;
        if is_alone { self.end_ways(volume, tie).await } else { Ok(()) }
    }

    /// `os-unreserve`. Whoever was told of the volume meanwhile has it no longer.
    pub(crate) async fn unreserve_volume(&self, caller: &Caller, id: &str) -> Answer<()> {
        let tie = self.inner.ties.hold(id).await;
        let volume = self.older(caller, id, |tx, mut volume| {
            let to = state_of(&tx.found::<Attachment>(&Attachment::of_volume(id))?);
            let status = VolumeMove::Unreserve.apply_to(volume.status, to).map_err(|e| illegal(&volume, e))?;
            if status == VolumeStatus::Available {
                volume.exports.clear();
            }
            set_status(tx, volume, status)
        })?;
        match volume.status {
            VolumeStatus::Available => self.end_ways(volume, tie).await,
            _ => Ok(()),
        }
    }

    /// `os-begin_detaching`.
    pub(crate) fn begin_detaching(&self, caller: &Caller, id: &str) -> Answer<()> {
        self.older(caller, id, |tx, volume| {
            let status = VolumeMove::BeginDetach.apply(volume.status).map_err(|e| illegal(&volume, e))?;
            set_status(tx, volume, status).map(drop)
        })
    }

    /// `os-roll_detaching`.
    pub(crate) fn roll_detaching(&self, caller: &Caller, id: &str) -> Answer<()> {
        self.older(caller, id, |tx, volume| {
            let status = VolumeMove::RollDetach.apply(volume.status).map_err(|e| illegal(&volume, e))?;
            set_status(tx, volume, status).map(drop)
        })
    }

    /// `os-attach`.
    pub(crate) fn attach_volume(&self, caller: &Caller, id: &str, attach: Attach) -> Answer<()> {
        check_mode(&attach.mode)?;
        let said =
            [("instance_uuid", &attach.instance), ("host_name", &attach.host), ("mountpoint", &attach.mountpoint)];
        said.into_iter().try_for_each(|(what, text)| checked((what, text.as_deref())))?;
        if attach.instance.is_none() == attach.host.is_none() {
            return Err(Fault::bad("name either instance_uuid or host_name"));
        }
        self.older(caller, id, |tx, volume| {
            if volume.read_only && attach.mode != "ro" {
                return Err(Fault::bad("Invalid volume: it is read-only, and attaches with mode \"ro\" only."));
            }
            let others = tx.found::<Attachment>(&Attachment::of_volume(id))?;
            has_place(&volume, &others, None)?;
            let status = VolumeMove::Attached.apply(volume.status).map_err(|e| illegal(&volume, e))?;
            tx.put(&Attachment {
                id: new_id(),
                project: volume.project.clone(),
                user: caller.user.clone(),
                volume_id: id.to_owned(),
                instance: attach.instance,
                status: AttachmentStatus::Attached,
                mode: attach.mode,
                connector: None,
                connection: None,
                mountpoint: attach.mountpoint,
                host: attach.host,
                attached_us: Some(now_us()),
                created_us: now_us(),
            })?;
            set_status(tx, volume, status).map(drop)
        })
    }

    /// `os-detach`; also `os-force_detach`, which takes an administrator and any state.
    pub(crate) async fn detach_volume(
        &self,
        caller: &Caller,
        id: &str,
        attachment: Option<&str>,
        force: bool,
    ) -> Answer<()> {
        self.let_go(caller, id, |tx| {
            let volume: Volume = owned(tx, caller, id)?;
            let all = tx.found::<Attachment>(&Attachment::of_volume(id))?;
            let gone = match (attachment, all.as_slice()) {
                (Some(wanted), all) => all.iter().find(|one| one.id == wanted).cloned(),
                (None, [one]) => Some(one.clone()),
                (None, []) => None,
                (None, _) => {
                    let text = "the volume has several attachments: name one by attachment_id";
                    return Err(Fault::bad(text));
                }
            };
            let rest: Vec<Attachment> =
                all.into_iter().filter(|one| gone.as_ref().is_none_or(|gone| gone.id != one.id)).collect();
            let to = state_of(&rest);
            let status = match VolumeMove::Detached.apply_to(volume.status, to) {
                Ok(status) => status,
                Err(_) if force => to,
                Err(error) => return Err(illegal(&volume, error)),
            };
            if let Some(gone) = gone {
                tx.remove::<Attachment>(&gone.id)?;
            }
            drop(set_status(tx, volume, status)?);
            Ok(rest)
        })
        .await
        .map(drop)
    }

    /// `os-initialize_connection`.
    pub(crate) async fn initialize_connection(&self, caller: &Caller, id: &str, connector: &Value) -> Answer<Value> {
        check_connector(connector)?;
        let _tie = self.inner.ties.hold(id).await;
        let volume: Volume = self.find(caller, id)?;
        if !matches!(
            volume.status,
            VolumeStatus::Attaching | VolumeStatus::Available | VolumeStatus::InUse | VolumeStatus::Reserved
        ) {
            let text = format!("Invalid volume: its status is {}, which allows no connection.", volume.status);
            return Err(Fault::bad(text));
        }
        let attachments = self.inner.catalog.read().found::<Attachment>(&Attachment::of_volume(id))?;
        let only_read = !attachments.is_empty() && attachments.iter().all(|attachment| attachment.mode == "ro");
        self.connection(&volume, connector, if only_read { "ro" } else { "rw" }).await
    }

    /// `os-terminate_connection`.
    pub(crate) async fn terminate_connection(&self, caller: &Caller, id: &str) -> Answer<()> {
        let _tie = self.inner.ties.hold(id).await;
        let volume: Volume = self.find(caller, id)?;
        let attachments = self.inner.catalog.read().found::<Attachment>(&Attachment::of_volume(id))?;
        // Several consumers of this host share its socket.
        match attachments.len() {
            0 | 1 => self.disconnect(&volume).await,
            _ => Ok(()),
        }
    }

    fn older<T>(&self, caller: &Caller, id: &str, change: impl FnOnce(&mut Tx<'_>, Volume) -> Answer<T>) -> Answer<T> {
        self.change(caller, |tx| {
            let volume: Volume = owned(tx, caller, id)?;
            change(tx, volume)
        })
    }
}

/// Brings a volume's state to what its attachments come to.
fn follow(tx: &mut Tx<'_>, volume: &str) -> Answer<()> {
    let volume: Volume = tx.require(volume)?;
    let to = state_of(&tx.found::<Attachment>(&Attachment::of_volume(&volume.id))?);
    let wanted = match to {
        VolumeStatus::InUse => VolumeMove::Attached.apply(volume.status),
        VolumeStatus::Attaching => VolumeMove::Attach.apply(volume.status),
        _ => VolumeMove::Detached.apply_to(volume.status, to),
    };
    // Something else may be under way with an attached volume, as an extension: its state is that one's, which goes back to in-use.
    match wanted {
        Ok(status) if status != volume.status => set_status(tx, volume, status).map(drop),
        _ => Ok(()),
    }
}

/// Reserves a volume for a consumer.
fn reserve(tx: &mut Tx<'_>, caller: &Caller, new: &NewAttachment) -> Answer<Attachment> {
    let volume: Volume = owned(tx, caller, &new.volume)?;
    if busy::<Volume>(tx, &volume.id)? {
        return Err(Fault::conflict(format!("volume {} has an operation under way", volume.id)));
    }
    let others = tx.found::<Attachment>(&Attachment::of_volume(&volume.id))?;
    has_place(&volume, &others, new.instance.as_deref())?;
    let status = match volume.status {
        VolumeStatus::InUse => VolumeMove::AttachAgain.apply(volume.status),
        from => VolumeMove::Reserve.apply(from),
    };
    let status = status.map_err(|e| illegal(&volume, e))?;
    let attachment = Attachment {
        id: new_id(),
        // Of whoever has the volume: an administrator may have asked.
        project: volume.project.clone(),
        user: caller.user.clone(),
        volume_id: volume.id.clone(),
        instance: new.instance.clone(),
        status: AttachmentStatus::Reserved,
        mode: new.mode.clone(),
        connector: None,
        connection: None,
        mountpoint: None,
        host: None,
        attached_us: None,
        created_us: now_us(),
    };
    tx.put(&attachment)?;
    drop(set_status(tx, volume, status)?);
    Ok(attachment)
}

/// Records what a consumer is told.
fn connect(tx: &mut Tx<'_>, mut attachment: Attachment, connector: &Value, connection: Value) -> Answer<Attachment> {
    let said = |key: &str| connector.get(key).and_then(Value::as_str).map(str::to_owned);
    (attachment.host, attachment.mountpoint) = (said("host"), said("mountpoint"));
    if attachment.status == AttachmentStatus::Attached {
        attachment.attached_us = Some(now_us());
    }
    attachment.connector = Some(connector.clone());
    attachment.connection = Some(connection);
    tx.put(&attachment)?;
    follow(tx, &attachment.volume_id)?;
    Ok(attachment)
}

/// An attachment whose consumer is about to be told how to reach the volume, in the state that it has then.
fn to_connect(tx: &Tx<'_>, caller: &Caller, id: &str, completes: bool) -> Answer<Attachment> {
    let mut attachment: Attachment = owned(tx, caller, id)?;
    let volume: Volume = tx.require(&attachment.volume_id)?;
    if matches!(volume.status, VolumeStatus::Deleting | VolumeStatus::ErrorDeleting) {
        let text = format!("Invalid volume: its status is {}, which allows no connection.", volume.status);
        return Err(Fault::bad(text));
    }
    let to = if completes { AttachmentStatus::Attaching } else { AttachmentStatus::Attached };
    let fault = |e| Fault::illegal("attachment", id, &e);
    attachment.status = AttachmentMove::Connect.apply_to(attachment.status, to).map_err(fault)?;
    Ok(attachment)
}

fn remove(tx: &mut Tx<'_>, attachment: &Attachment) -> Answer<Vec<Attachment>> {
    let volume: Volume = tx.require(&attachment.volume_id)?;
    if busy::<Volume>(tx, &volume.id)? {
        let text = format!("volume {} has an operation under way: detach it when that has ended", volume.id);
        return Err(Fault::conflict(text));
    }
    tx.remove::<Attachment>(&attachment.id)?;
    let left = tx.found::<Attachment>(&Attachment::of_volume(&volume.id))?;
    let status = VolumeMove::Detached.apply_to(volume.status, state_of(&left)).unwrap_or(volume.status);
    drop(set_status(tx, volume, status)?);
    Ok(left)
}
