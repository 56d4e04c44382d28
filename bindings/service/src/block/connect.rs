//! How a consumer reaches a volume: over NBD ([`super::exports`]), or through a socket of vhost-user-blk.

use cairn_nbd::TlsMode;
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::Block;
use crate::{
    catalog::{Consumer, QosSpec, Volume, VolumeType},
    fault::{Answer, Fault, FaultKind},
    locks::Locks,
};

/// Who changes the ties of which volumes to their consumers now.
///
/// Invariant: a socket is made, and taken away, together with what the catalog says of it, by one request for each volume at a time. So nobody
/// loses the socket of an attachment because an earlier one is being ended.
pub(super) type Ties = Locks;

/// Goes on when whoever asked for it has left.
pub(super) async fn to_its_end(work: impl Future<Output = Answer<()>> + Send + 'static) -> Answer<()> {
    let cut_off = |e| Fault::internal(format!("ways to a volume could not be ended: {e}"));
    tokio::spawn(work).await.map_err(cut_off)?
}

impl Block {
    /// What a consumer with this connector is told. `{"transport": "vhost-user"}` in it asks for a socket of vhost-user-blk, which is for
    /// virtual machines on this host; else it is NBD.
    pub(super) async fn connection(&self, volume: &Volume, connector: &Value, mode: &str) -> Answer<Value> {
        let name = volume.engine_name();
        let mode = if volume.read_only { "ro" } else { mode };
        let mut data = json!({
            "access_mode": mode,
            "discard": true,
            "encrypted": false,
            "qos_specs": self.front_end_specs(&volume.type_id)?,
        });
        let (kind, more) = match connector.get("transport").and_then(Value::as_str) {
            Some("vhost-user") => ("vhost_user", self.socket(&name, mode == "ro").await?),
            None | Some("nbd") => ("nbd", self.nbd(&volume.id, mode == "ro", connector)?),
            Some(_) => return Err(Fault::bad("the connector's transport is none of \"nbd\" and \"vhost-user\"")),
        };
        if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
            data.extend(more);
        }
        Ok(json!({"driver_volume_type": kind, "data": data}))
    }

    async fn socket(&self, name: &str, read_only: bool) -> Answer<Value> {
        let Some(disks) = &self.inner.disks else {
            let text = "this service offers no sockets of vhost-user-blk: start it with a directory for them";
            return Err(Fault::new(FaultKind::Unsupported, text));
        };
        let path = if read_only { disks.export_read_only(name).await? } else { disks.export(name).await? };
        Ok(json!({"path": path.display().to_string(), "device_type": "vhost-user-blk"}))
    }

    /// A unix socket for consumers on this host, else an address of the network.
    fn nbd(&self, id: &str, read_only: bool, connector: &Value) -> Answer<Value> {
        let host = connector.get("host").and_then(Value::as_str);
        let is_here = host == Some(&self.inner.settings.host);
        let mut listeners: Vec<_> = self.inner.listeners.iter().map(|listener| (listener.info(), listener)).collect();
        listeners.sort_by_key(|(info, _)| info.address.starts_with("unix:") != is_here);
        let Some((info, listener)) = listeners.first() else {
            let text = "this service offers no volumes over NBD: start it with an address for it";
            return Err(Fault::new(FaultKind::Unsupported, text));
        };
        let name = self.export(id, read_only)?;
        let transport = if info.address.starts_with("unix:") { "unix" } else { "tcp" };
        Ok(json!({
            "url": listener.server().uri(&name),
            "export": name,
            "transport": transport,
            "tls": listener.tls() != TlsMode::Off,
        }))
    }

    /// Limits that the consumer is to enforce itself.
    fn front_end_specs(&self, type_id: &str) -> Answer<Value> {
        let tx = self.inner.catalog.read();
        let qos = tx.get::<VolumeType>(type_id)?.and_then(|kind| kind.qos_id);
        let specs = qos.map(|id| tx.get::<QosSpec>(&id)).transpose()?.flatten();
        Ok(match specs {
            Some(specs) if specs.consumer != Consumer::BackEnd => json!(specs.specs),
            _ => Value::Null,
        })
    }

    /// Ends all ways to a volume: its consumers are gone, or somebody else is to have it.
    pub(crate) async fn withdraw(&self, id: &str) -> Answer<()> {
        let (block, id) = (self.clone(), id.to_owned());
        to_its_end(async move {
            let _tie = block.inner.ties.hold(&id).await;
            let volume: Volume = block.inner.catalog.read().require(&id)?;
            block.disconnect(&volume).await
        })
        .await
    }

    /// Ends all ways to a volume whose record has no names any more: if the service ends first, they are gone all the same.
    pub(super) async fn end_ways(&self, volume: Volume, tie: OwnedMutexGuard<()>) -> Answer<()> {
        let block = self.clone();
        to_its_end(async move {
            let _tie = tie;
            block.disconnect(&volume).await
        })
        .await
    }

    /// Takes away the socket and the names of a volume that nobody has any more. The caller holds its tie.
    pub(super) async fn disconnect(&self, volume: &Volume) -> Answer<()> {
        self.close_exports(&volume.id).await?;
        if let Some(disks) = &self.inner.disks {
            match disks.withdraw(&volume.engine_name(), true).await {
                Err(error) if error.kind() != cairn_engine::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}
