//! How a consumer reaches a volume: over NBD, or through a socket of vhost-user-blk.

use cairn_nbd::TlsMode;
use serde_json::{Value, json};

use super::Block;
use crate::{
    catalog::{Consumer, QosSpec, Volume, VolumeType},
    fault::{Answer, Fault, FaultKind},
};

impl Block {
    /// What a consumer with this connector is told. `{"transport": "vhost-user"}` in it asks for a socket of vhost-user-blk, which is for
    /// virtual machines on this host; else it is NBD.
    pub(super) async fn connection(&self, volume: &Volume, connector: &Value, mode: &str) -> Answer<Value> {
        let name = volume.engine_name();
        let mut data = json!({
            "access_mode": if volume.read_only { "ro" } else { mode },
            "discard": true,
            "encrypted": false,
            "qos_specs": self.front_end_specs(&volume.type_id)?,
        });
        let (kind, more) = match connector.get("transport").and_then(Value::as_str) {
            Some("vhost-user") => ("vhost_user", self.socket(&name).await?),
            None | Some("nbd") => ("nbd", self.nbd(&name, connector)?),
            Some(_) => return Err(Fault::bad("the connector's transport is none of \"nbd\" and \"vhost-user\"")),
        };
        if let (Some(data), Value::Object(more)) = (data.as_object_mut(), more) {
            data.extend(more);
        }
        Ok(json!({"driver_volume_type": kind, "data": data}))
    }

    async fn socket(&self, name: &str) -> Answer<Value> {
        let Some(disks) = &self.inner.disks else {
            let text = "this service offers no sockets of vhost-user-blk: start it with a directory for them";
            return Err(Fault::new(FaultKind::Unsupported, text));
        };
        let path = disks.export(name).await?;
        Ok(json!({"path": path.display().to_string(), "device_type": "vhost-user-blk"}))
    }

    /// A unix socket for consumers on this host, else an address of the network.
    fn nbd(&self, name: &str, connector: &Value) -> Answer<Value> {
        let host = connector.get("host").and_then(Value::as_str);
        let is_here = host == Some(&self.inner.settings.host);
        let mut listeners: Vec<_> = self.inner.listeners.iter().map(|listener| (listener.info(), listener)).collect();
        listeners.sort_by_key(|(info, _)| info.address.starts_with("unix:") != is_here);
        let Some((info, listener)) = listeners.first() else {
            let text = "this service offers no volumes over NBD: start it with an address for it";
            return Err(Fault::new(FaultKind::Unsupported, text));
        };
        let transport = if info.address.starts_with("unix:") { "unix" } else { "tcp" };
        Ok(json!({
            "url": listener.server().uri(name),
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

    /// Takes away the socket of a volume that nobody has any more.
    pub(super) async fn disconnect(&self, volume: &Volume) -> Answer<()> {
        if let Some(disks) = &self.inner.disks {
            match disks.withdraw(&volume.engine_name(), true).await {
                Err(error) if error.kind() != cairn_engine::ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}
