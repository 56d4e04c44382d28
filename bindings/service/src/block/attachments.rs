//! Attachments: a volume's ties to consumers, in the present way (`/attachments`) and the older one (actions of the volume).
//!
//! Invariant: a volume's state follows from its attachments: in-use with one that is complete, attaching or reserved with one that is on
//! its way, available with none. One consumer at a time, unless the volume says multiattach.

use serde_json::Value;

use super::{
    Block, Caller,
    views::{busy, owned},
    volumes::illegal,
};
use crate::{
    catalog::{Attachment, Tx, Volume, now_us},
    domain::{AttachmentMove, AttachmentStatus, Move, VolumeMove, VolumeStatus, new_id},
    fault::{Answer, Fault},
};

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
    Ok(())
}

impl Block {
    /// Reserves a volume for a consumer, and connects it if the consumer is known.
    pub(crate) async fn create_attachment(&self, caller: &Caller, new: NewAttachment) -> Answer<Attachment> {
        check_mode(&new.mode)?;
        let attachment = self.inner.catalog.write(|tx| {
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
                project: caller.project.clone(),
                user: caller.user.clone(),
                volume_id: volume.id.clone(),
                instance: new.instance,
                status: AttachmentStatus::Reserved,
                mode: new.mode,
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
        })?;
        match new.connector {
            Some(connector) => self.connect_attachment(caller, &attachment.id, connector, new.completes).await,
            None => Ok(attachment),
        }
    }

    /// Tells a consumer how to reach the volume.
    pub(crate) async fn connect_attachment(
        &self,
        caller: &Caller,
        id: &str,
        connector: Value,
        completes: bool,
    ) -> Answer<Attachment> {
        if !connector.is_object() {
            return Err(Fault::bad("the connector has to be an object"));
        }
        let found: Attachment = self.find(caller, id)?;
        let volume: Volume = self.inner.catalog.read().require(&found.volume_id)?;
        let connection = self.connection(&volume, &connector, &found.mode).await?;
        self.inner.catalog.write(|tx| {
            let mut attachment: Attachment = owned(tx, caller, id)?;
            let to = if completes { AttachmentStatus::Attaching } else { AttachmentStatus::Attached };
            let fault = |e| Fault::illegal("attachment", id, &e);
            attachment.status = AttachmentMove::Connect.apply_to(attachment.status, to).map_err(fault)?;
            attachment.host = connector.get("host").and_then(Value::as_str).map(str::to_owned);
            attachment.mountpoint = connector.get("mountpoint").and_then(Value::as_str).map(str::to_owned);
            if attachment.status == AttachmentStatus::Attached {
                attachment.attached_us = Some(now_us());
            }
            attachment.connector = Some(connector);
            attachment.connection = Some(connection);
            tx.put(&attachment)?;
            follow(tx, &attachment.volume_id)?;
            Ok(attachment)
        })
    }

    /// The consumer has it.
    pub(crate) fn complete_attachment(&self, caller: &Caller, id: &str) -> Answer<()> {
        self.inner.catalog.write(|tx| {
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
        let (volume, left) = self.inner.catalog.write(|tx| {
            let attachment: Attachment = owned(tx, caller, id)?;
            let fault = |e| Fault::illegal("attachment", id, &e);
            let _gone = AttachmentMove::Detach.apply(attachment.status).map_err(fault)?;
            remove(tx, &attachment)
        })?;
        self.after_detach(volume, left).await
    }

    async fn after_detach(&self, volume: Volume, left: Vec<Attachment>) -> Answer<Vec<Attachment>> {
        if left.is_empty() {
            self.disconnect(&volume).await?;
        }
        Ok(left)
    }

    // ---- the older way ----

    /// `os-reserve`.
    pub(crate) fn reserve_volume(&self, caller: &Caller, id: &str) -> Answer<()> {
        self.older(caller, id, |tx, volume| {
            has_place(&volume, &tx.found::<Attachment>(&Attachment::of_volume(id))?, None)?;
            let status = VolumeMove::BeginAttach.apply(volume.status).map_err(|e| illegal(&volume, e))?;
            set_status(tx, volume, status).map(drop)
        })
    }

    /// `os-unreserve`.
    pub(crate) fn unreserve_volume(&self, caller: &Caller, id: &str) -> Answer<()> {
        self.older(caller, id, |tx, volume| {
            let to = state_of(&tx.found::<Attachment>(&Attachment::of_volume(id))?);
            let status = VolumeMove::Unreserve.apply_to(volume.status, to).map_err(|e| illegal(&volume, e))?;
            set_status(tx, volume, status).map(drop)
        })
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
        let (volume, left) = self.inner.catalog.write(|tx| {
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
            Ok((set_status(tx, volume, status)?, rest))
        })?;
        self.after_detach(volume, left).await.map(drop)
    }

    /// `os-initialize_connection`.
    pub(crate) async fn initialize_connection(&self, caller: &Caller, id: &str, connector: &Value) -> Answer<Value> {
        if !connector.is_object() {
            return Err(Fault::bad("the connector has to be an object"));
        }
        let volume: Volume = self.find(caller, id)?;
        if !matches!(
            volume.status,
            VolumeStatus::Attaching | VolumeStatus::Available | VolumeStatus::InUse | VolumeStatus::Reserved
        ) {
            let text = format!("Invalid volume: its status is {}, which allows no connection.", volume.status);
            return Err(Fault::bad(text));
        }
        let mode = if volume.read_only { "ro" } else { "rw" };
        self.connection(&volume, connector, mode).await
    }

    /// `os-terminate_connection`.
    pub(crate) async fn terminate_connection(&self, caller: &Caller, id: &str) -> Answer<()> {
        let volume: Volume = self.find(caller, id)?;
        let attachments = self.inner.catalog.read().found::<Attachment>(&Attachment::of_volume(id))?;
        // Several consumers of this host share its socket.
        match attachments.len() {
            0 | 1 => self.disconnect(&volume).await,
            _ => Ok(()),
        }
    }

    fn older(&self, caller: &Caller, id: &str, change: impl FnOnce(&mut Tx<'_>, Volume) -> Answer<()>) -> Answer<()> {
        self.inner.catalog.write(|tx| {
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

fn remove(tx: &mut Tx<'_>, attachment: &Attachment) -> Answer<(Volume, Vec<Attachment>)> {
    let volume: Volume = tx.require(&attachment.volume_id)?;
    if busy::<Volume>(tx, &volume.id)? {
        let text = format!("volume {} has an operation under way: detach it when that has ended", volume.id);
        return Err(Fault::conflict(text));
    }
    tx.remove::<Attachment>(&attachment.id)?;
    let left = tx.found::<Attachment>(&Attachment::of_volume(&volume.id))?;
    let status = VolumeMove::Detached.apply_to(volume.status, state_of(&left)).unwrap_or(volume.status);
    Ok((set_status(tx, volume, status)?, left))
}
