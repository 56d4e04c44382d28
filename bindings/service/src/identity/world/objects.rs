//! Objects of the first project, by the names that the table has for them.

use cairn_engine::{ErrorKind, VolumeOptions};
use std::collections::BTreeMap;

use super::{Caller, World, put_user, token_of};
use crate::{
    catalog::{
        AppCredential, Attachment, Backup, Consumer, Content, DefaultType, Event, Group, GroupSnapshot, GroupType,
        Image, Intent, Io, Message, Meter, Op, QosSpec, Record, Snapshot, TotpKey, Transfer, Tx, Verdict, Volume,
        VolumeType, engine_snapshot, engine_volume, now_us,
    },
    domain::{
        AttachmentStatus, BackupStatus, Claim, DiskFormat, GIB, GroupSnapshotStatus, GroupStatus, ImageStatus, Role,
        SnapshotStatus, VolumeStatus, new_id,
    },
    identity::directory::{give_grant, new_project, plain_id},
    secrets,
};

/// Objects by the names that the table has for them.
pub(crate) struct Objects {
    names: BTreeMap<&'static str, String>,
    pub(super) token: String,
}

/// Objects while they are made.
struct Making<'a, 'b> {
    tx: &'a mut Tx<'b>,
    world: &'a World,
    names: &'a mut BTreeMap<&'static str, String>,
}

fn metadata() -> BTreeMap<String, String> {
    BTreeMap::from([("k".to_owned(), "v".to_owned())])
}

fn owner() -> String {
    "owner".to_owned()
}

impl World {
    /// New objects of the first project: records alone.
    pub(crate) fn objects(&self) -> Objects {
        let mut names = BTreeMap::from([("project", self.here.clone()), ("new", format!("new-{}", new_id()))]);
        let token = self.own.catalog().write(|tx| {
            let mut making = Making { tx, world: self, names: &mut names };
            making.settings();
            making.volumes();
            making.snapshot_and_backups();
            making.of_volumes();
            making.groups();
            making.images();
            making.history();
            Ok(making.people())
        });
        Objects { names, token: token.unwrap() }
    }

    /// New objects, among them a volume and a snapshot that are really in the pool, and an operation under way.
    pub(crate) async fn all_objects(&self) -> Objects {
        let mut objects = self.objects();
        let made = self.own.catalog().write(|tx| {
            let mut making = Making { tx, world: self, names: &mut objects.names };
            making.real();
            making.running();
            Ok(())
        });
        made.unwrap();
        self.make_real(&objects).await;
        objects
    }

    /// Puts into the pool what has to be there.
    pub(crate) async fn make_real(&self, objects: &Objects) {
        let (volume, shot) = (engine_volume(&objects.names["real"]), engine_snapshot(&objects.names["shot"]));
        let done = |outcome: Result<(), cairn_engine::Error>| match outcome {
            Err(error) if error.kind() != ErrorKind::Exists => panic!("{error}"),
            _ => {}
        };
        done(self.pool.create_volume(&volume, GIB, VolumeOptions::default()).await.map(drop));
        done(self.pool.snapshot(&[format!("{volume}@{shot}").parse().unwrap()]).await.map(drop));
    }

    /// Takes all limits out of the pool.
    #[cfg(feature = "fuzzing")]
    pub(crate) async fn take_out_limits(&self) {
        for info in self.pool.qos_list().await.unwrap() {
            let own = if info.target == "/" { "queue_depth" } else { "group" };
            let is_group = info.target.len() > 1 && info.target.starts_with('/');
            let keys = cairn_engine::Limits::KEYS.into_iter().chain((!is_group).then_some(own));
            let none: Vec<_> = keys.map(|key| (key.to_owned(), None)).collect();
            drop(self.pool.set_qos(&info.target.parse().unwrap(), &none).await.unwrap());
        }
    }
}

impl Making<'_, '_> {
    fn name(&mut self, name: &'static str, id: String) {
        drop(self.names.insert(name, id));
    }

    fn id(&self, name: &str) -> String {
        self.names[name].clone()
    }

    fn put<R: Record>(&mut self, object: &R) {
        self.tx.put(object).unwrap();
    }

    fn claim(&mut self, claim: &Claim) {
        self.tx.reserve(&self.world.here, claim).unwrap();
        self.tx.settle(&self.world.here, claim).unwrap();
    }

    /// Types and QoS specs.
    fn settings(&mut self) {
        for name in ["qos", "loose"] {
            let id = new_id();
            let specs = BTreeMap::from([("read_iops_sec".to_owned(), "100".to_owned())]);
            let (name_of, consumer) = (format!("{name} {id}"), Consumer::BackEnd);
            self.put(&QosSpec { id: id.clone(), name: name_of, consumer, specs, created_us: now_us() });
            self.name(name, id);
        }
        for (name, public) in [("type", true), ("usual", true), ("private", false)] {
            let id = new_id();
            let kind = VolumeType {
                id: id.clone(),
                name: format!("{name} {id}"),
                description: None,
                public,
                extra_specs: metadata(),
                qos_id: (!public).then(|| self.id("qos")),
                projects: if public { Default::default() } else { [self.world.here.clone()].into() },
                created_us: now_us(),
            };
            self.put(&kind);
            self.name(name, id);
        }
        for (name, public) in [("grouptype", true), ("secret", false)] {
            let id = new_id();
            let name_of = format!("{name} {id}");
            let specs = metadata();
            self.put(&GroupType {
                id: id.clone(),
                name: name_of,
                description: None,
                public,
                specs,
                created_us: now_us(),
            });
            self.name(name, id);
        }
    }

    fn volume(&mut self, name: &'static str, status: VolumeStatus, group: Option<&'static str>) {
        let volume = Volume {
            id: new_id(),
            project: self.world.here.clone(),
            user: owner(),
            name: None,
            description: None,
            metadata: metadata(),
            size: 1,
            status,
            group_id: group.map(|group| self.id(group)),
            qos: BTreeMap::new(),
            held: None,
            exports: Vec::new(),
            type_id: self.world.default_type.clone(),
            bootable: false,
            read_only: false,
            multiattach: false,
            snapshot_id: None,
            source_volid: None,
            backup_id: None,
            image: BTreeMap::new(),
            created_us: now_us(),
            updated_us: None,
        };
        self.claim(&Claim::volume(&volume.type_id, 1));
        self.put(&volume);
        self.name(name, volume.id);
    }

    fn snapshot(&mut self, name: &'static str, of: &str, group_snapshot_id: Option<String>) {
        let snapshot = Snapshot {
            id: new_id(),
            project: self.world.here.clone(),
            user: owner(),
            volume_id: self.id(of),
            type_id: self.world.default_type.clone(),
            name: None,
            description: None,
            metadata: metadata(),
            size: 1,
            status: SnapshotStatus::Available,
            group_snapshot_id,
            created_us: now_us(),
            updated_us: None,
        };
        self.claim(&Claim::snapshot(&snapshot.type_id, 1));
        self.put(&snapshot);
        self.name(name, snapshot.id);
    }

    /// A backup of `$based`. It hangs on another one, or is a full one.
    fn backup(&mut self, name: &'static str, parent: Option<&str>) {
        let backup = Backup {
            id: new_id(),
            project: self.world.here.clone(),
            user: owner(),
            volume_id: self.id("based"),
            snapshot_id: None,
            name: None,
            description: None,
            metadata: metadata(),
            size: 1,
            status: BackupStatus::Available,
            fail_reason: None,
            incremental: parent.is_some(),
            parent_id: parent.map(|parent| self.id(parent)),
            stored_id: Some(new_id()),
            data_us: now_us(),
            container: None,
            restored_to: None,
            created_us: now_us(),
            updated_us: None,
        };
        self.claim(&Claim::backup(1));
        self.put(&backup);
        self.name(name, backup.id);
    }

    fn volumes(&mut self) {
        self.volume("volume", VolumeStatus::Available, None);
        self.volume("based", VolumeStatus::Available, None);
        self.volume("used", VolumeStatus::Attaching, None);
        self.volume("offered", VolumeStatus::AwaitingTransfer, None);
    }

    fn snapshot_and_backups(&mut self) {
        self.snapshot("snapshot", "based", None);
        self.backup("backup", None);
        self.backup("full", None);
        self.backup("increment", Some("full"));
    }

    /// What volumes have: an attachment, a transfer, a message.
    fn of_volumes(&mut self) {
        let (project, created_us) = (self.world.here.clone(), now_us());
        let attachment = Attachment {
            id: new_id(),
            project: project.clone(),
            user: owner(),
            volume_id: self.id("used"),
            instance: None,
            status: AttachmentStatus::Attaching,
            mode: "rw".to_owned(),
            connector: None,
            connection: None,
            mountpoint: None,
            host: None,
            attached_us: None,
            created_us,
        };
        let id = new_id();
        let transfer = Transfer {
            key_hash: secrets::transfer_digest(&id, "the password"),
            id,
            project: project.clone(),
            volume_id: self.id("offered"),
            name: None,
            no_snapshots: true,
            created_us,
        };
        let message = Message {
            id: new_id(),
            project,
            request: "req".to_owned(),
            resource_type: "VOLUME".to_owned(),
            resource: self.id("volume"),
            event: "e".to_owned(),
            text: "t".to_owned(),
            created_us,
        };
        self.put(&attachment);
        self.put(&transfer);
        self.put(&message);
        self.name("attachment", attachment.id);
        self.name("transfer", transfer.id);
        self.name("message", message.id);
    }

    fn images(&mut self) {
        for (name, status, public) in [
            ("image", ImageStatus::Queued, false),
            ("disk", ImageStatus::Active, false),
            ("poster", ImageStatus::Active, true),
        ] {
            let content = (status == ImageStatus::Active).then(|| Content {
                size: 3,
                virtual_size: 3,
                md5: "m".to_owned(),
                sha512: "s".to_owned(),
                gib: 1,
            });
            let image = Image {
                id: new_id(),
                project: self.world.here.clone(),
                user: owner(),
                name: Some(name.to_owned()),
                status,
                public,
                protected: false,
                hidden: false,
                tags: ["t".to_owned()].into(),
                properties: metadata(),
                min_disk: 0,
                min_ram: 0,
                format: Some(DiskFormat::Raw),
                bare: true,
                content,
                created_us: now_us(),
                updated_us: None,
            };
            self.claim(&Claim::image(image.gib()));
            self.put(&image);
            self.name(name, image.id);
        }
    }

    fn group(&mut self, name: &'static str) {
        let group = Group {
            id: new_id(),
            project: self.world.here.clone(),
            user: owner(),
            name: None,
            description: None,
            type_id: self.id("grouptype"),
            volume_types: [self.world.default_type.clone()].into(),
            status: GroupStatus::Available,
            group_snapshot_id: None,
            source_group_id: None,
            created_us: now_us(),
        };
        self.claim(&Claim::group());
        self.put(&group);
        self.name(name, group.id);
    }

    /// `$group` has the volume `$grouped` and the snapshot `$frozen`, whose part is `$part`; `$bunch` has the volume `$bunched`; `$empty`
    /// has none.
    fn groups(&mut self) {
        for (group, volume) in [("group", Some("grouped")), ("bunch", Some("bunched")), ("empty", None)] {
            self.group(group);
            if let Some(volume) = volume {
                self.volume(volume, VolumeStatus::Available, Some(group));
            }
        }
        let frozen = GroupSnapshot {
            id: new_id(),
            project: self.world.here.clone(),
            user: owner(),
            name: None,
            description: None,
            group_id: self.id("group"),
            type_id: self.id("grouptype"),
            status: GroupSnapshotStatus::Available,
            created_us: now_us(),
        };
        self.put(&frozen);
        self.snapshot("part", "grouped", Some(frozen.id.clone()));
        self.name("frozen", frozen.id);
    }

    /// The task `$ended`, the event that tells of it, and an interval of metering, both about `$volume`.
    fn history(&mut self) {
        let (volume, now) = (self.id("volume"), now_us());
        let event = Event {
            id: String::new(),
            project: self.world.here.clone(),
            user: owner(),
            request: "req".to_owned(),
            action: "volume.create".to_owned(),
            kind: Volume::KIND.tag.to_owned(),
            object: Some(volume.clone()),
            verdict: Verdict::Success,
            reason: None,
            task: Some(new_id()),
            began_us: Some(now),
            created_us: now,
        };
        let meter = Meter {
            id: String::new(),
            kind: Volume::KIND.tag.to_owned(),
            object: volume,
            project: self.world.here.clone(),
            gib: 1,
            from_us: now - 1,
            until_us: now,
            io: Io::default(),
        };
        let event = self.tx.append_event(event).unwrap();
        drop(self.tx.append(meter).unwrap());
        self.name("ended", event.task.unwrap());
    }

    /// `$real` and its snapshot `$shot`, that the pool has too.
    fn real(&mut self) {
        self.volume("real", VolumeStatus::Available, None);
        self.snapshot("shot", "real", None);
    }

    /// The task `$running`: the backup `$coming` is being made.
    fn running(&mut self) {
        self.backup("coming", None);
        let mut backup: Backup = self.tx.require(&self.id("coming")).unwrap();
        backup.status = BackupStatus::Creating;
        backup.stored_id = None;
        self.put(&backup);
        // Promised, but not in use yet.
        let claim = Claim::backup(1);
        self.tx.release(&self.world.here, &claim).unwrap();
        self.tx.reserve(&self.world.here, &claim).unwrap();
        let intent = Intent {
            key: Intent::key(Backup::KIND, &backup.id),
            project: self.world.here.clone(),
            op: Op::CreateBackup { full: true },
            reserved: claim,
            since_us: now_us(),
            request: "req".to_owned(),
            task: new_id(),
            user: owner(),
            action: "backup.create".to_owned(),
            cancelled: false,
            past: false,
            earlier: None,
            notes_undos: false,
        };
        self.put(&intent);
        self.name("running", intent.task);
    }

    /// A user with all that users have. Answers the token.
    fn people(&mut self) -> String {
        let user = put_user(self.tx, &self.world.hash, &format!("user {}", new_id()));
        give_grant(self.tx, &user.id, &self.world.here, Role::Member).unwrap();
        let spare = new_project(&format!("spare {}", new_id()));
        self.put(&spare);
        self.put(&DefaultType { project: spare.id.clone(), type_id: self.id("usual") });
        let app = AppCredential {
            id: plain_id(),
            name: "app".to_owned(),
            description: None,
            user: user.id.clone(),
            project: self.world.here.clone(),
            role: Role::Member,
            secret: self.world.hash.clone(),
            expires_us: None,
            unrestricted: false,
            created_us: now_us(),
        };
        let key = "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ".to_owned();
        let key = TotpKey { id: plain_id(), user: user.id.clone(), key, last_step: 0, created_us: now_us() };
        self.put(&app);
        self.put(&key);
        let token = token_of(self.tx, &user, Some(&self.world.here));
        self.name("user", user.id);
        self.name("spare", spare.id);
        self.name("app", app.id);
        self.name("key", key.id);
        token
    }
}

impl Objects {
    /// A text with the objects' names filled in. What is no name stays.
    pub(crate) fn fill(&self, text: &str) -> String {
        let mut parts = text.split('$');
        let mut filled = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let end = part.find(|c: char| !c.is_ascii_lowercase()).unwrap_or(part.len());
            let (name, rest) = part.split_at(end);
            match self.names.get(name) {
                Some(id) => filled.extend([id, rest]),
                None => filled.extend(["$", part]),
            }
        }
        filled
    }

    /// What is not there for a caller.
    pub(crate) fn hidden_from(&self, caller: Caller) -> impl Iterator<Item = (&'static str, &str)> {
        // For everybody.
        const OF_ALL: [&str; 5] = ["new", "type", "usual", "grouptype", "poster"];
        const OF_ADMINS: [&str; 4] = ["spare", "secret", "qos", "loose"];
        const OF_USER: [&str; 3] = ["user", "app", "key"];
        let hidden = move |name: &str| match name {
            _ if OF_ALL.contains(&name) || caller.is_admin() => false,
            _ if OF_ADMINS.contains(&name) => true,
            _ if OF_USER.contains(&name) => caller != Caller::Themselves,
            // All that belongs to the project.
            _ => !caller.is_here(),
        };
        self.names.iter().filter(move |(name, _)| hidden(name)).map(|(name, id)| (*name, id.as_str()))
    }
}
