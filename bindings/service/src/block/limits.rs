//! Limits as the engine has them: those of a volume's type, before them its own, and those of its project. A change counts at once.
//!
//! Invariants:
//! - The engine is brought to what the catalog says by one at a time for each volume and project, who reads the catalog while nobody else does
//!   so: what was changed last counts.
//! - A change that is in the catalog reaches the engine, whether anybody waits for that or not. What the end of the process cuts off, the next
//!   start does: it visits whatever has limits in the catalog or in the engine.

use std::{collections::BTreeMap, future::Future};

use cairn_engine::{ErrorKind, Limits, QosInfo, QosTarget};

use super::{Block, Caller, act::again, reattach::limits_of_type, views::owned};
use crate::{
    catalog::{ProjectQos, Subject, Tx, Volume, VolumeType, engine_volume},
    fault::{Answer, Fault, FaultKind},
};

/// Key of a volume: the engine's group that it is in, in place of its project's.
const GROUP: &str = "group";
/// The engine's groups that are for projects.
const OF_PROJECTS: &str = "project-";

/// What the engine calls the group of a project's volumes.
fn group_of(project: &str) -> String {
    format!("{OF_PROJECTS}{}", project.replace('%', "%25").replace('@', "%40"))
}

/// The project whose group it is, if it is one.
fn project_of(group: &str) -> Option<String> {
    group.strip_prefix(OF_PROJECTS).map(|name| name.replace("%40", "@").replace("%25", "%"))
}

/// Goes on to its end also when nobody waits for it any more, as for a client that has gone.
async fn to_its_end<T: Send + 'static>(work: impl Future<Output = Answer<T>> + Send + 'static) -> Answer<T> {
    let ended = tokio::spawn(work).await;
    ended.unwrap_or_else(|error| Err(Fault::internal(format!("limits were not set in the engine: {error}"))))
}

/// Changes as they travel: a key with none is taken out.
pub(crate) type Changes = Vec<(String, Option<String>)>;

/// What was set, with changes.
fn changed(limits: &BTreeMap<String, String>, changes: &Changes) -> BTreeMap<String, String> {
    let mut limits = limits.clone();
    for (key, value) in changes {
        drop(match value {
            Some(value) => limits.insert(key.clone(), value.clone()),
            None => limits.remove(key),
        });
    }
    limits
}

fn check(limits: &BTreeMap<String, String>) -> Answer<()> {
    let of_limits = limits.iter().filter(|(key, _)| Limits::KEYS.contains(&key.as_str()));
    let all = of_limits.map(|(key, value)| (key.as_str(), Some(value.as_str())));
    Limits::none().changed(all).map(drop).map_err(|e| Fault::bad(format!("Invalid limits: {e}")))
}

fn check_keys(changes: &Changes, more: &[&str]) -> Answer<()> {
    if changes.is_empty() {
        return Err(Fault::bad("no change is named: give at least one key, with a value or null"));
    }
    match changes.iter().find(|(key, _)| !Limits::KEYS.contains(&key.as_str()) && !more.contains(&key.as_str())) {
        Some((key, _)) => Err(Fault::bad(format!("{key:?} is no limit that can be set here"))),
        None => Ok(()),
    }
}

/// What takes out everything.
fn nothing(more: &[&str]) -> Changes {
    Limits::KEYS.into_iter().chain(more.iter().copied()).map(|key| (key.to_owned(), None)).collect()
}

/// What a volume's limits come to.
struct Wanted {
    limits: BTreeMap<String, String>,
    group: Option<String>,
}

fn wanted(tx: &Tx<'_>, volume: &Volume, type_id: &str) -> Answer<Wanted> {
    let mut limits = limits_of_type(tx, volume, type_id)?;
    limits.extend(volume.qos.clone());
    let own = limits.remove(GROUP);
    let of_project = tx.get::<ProjectQos>(&volume.project)?.map(|_| group_of(&volume.project));
    Ok(Wanted { limits, group: own.or(of_project) })
}

impl Block {
    /// Brings a volume's limits to what the catalog says.
    pub(crate) async fn apply_limits(&self, id: &str) -> Answer<()> {
        let _one = self.inner.limiting.hold(id).await;
        let type_id = self.inner.catalog.read().require::<Volume>(id)?.type_id;
        self.bring_limits(id, &type_id).await
    }

    /// The same for a volume that is to be of this type.
    pub(super) async fn apply_limits_as(&self, id: &str, type_id: &str) -> Answer<()> {
        let _one = self.inner.limiting.hold(id).await;
        self.bring_limits(id, type_id).await
    }

    /// In place of all other limits. The caller holds the volume's.
    async fn bring_limits(&self, id: &str, type_id: &str) -> Answer<()> {
        let wanted = {
            let tx = self.inner.catalog.read();
            wanted(&tx, &tx.require(id)?, type_id)?
        };
        let target = engine_volume(id).parse()?;
        let has = self.inner.pool.qos(&target).await?;
        // A group that an operator has chosen at the pool itself is left alone.
        let is_of_project = has.group.as_ref().is_some_and(|group| group.starts_with(OF_PROJECTS));
        let regroup = wanted.group != has.group && (wanted.group.is_some() || is_of_project);
        if wanted.limits.is_empty() && has.limits.is_empty() && !regroup {
            return Ok(());
        }
        let mut changes: Changes =
            Limits::KEYS.into_iter().map(|key| (key.to_owned(), wanted.limits.get(key).cloned())).collect();
        if regroup {
            changes.push((GROUP.to_owned(), wanted.group));
        }
        drop(self.inner.pool.set_qos(&target, &changes).await?);
        Ok(())
    }

    /// Brings the limits of some volumes to what the catalog says. One that is being made or deleted meanwhile has none yet, or none any
    /// more: the operation that makes it sets them.
    pub(crate) async fn apply_limits_to(&self, volumes: &[String]) -> Answer<()> {
        let (block, volumes) = (self.clone(), volumes.to_vec());
        to_its_end(async move {
            for id in &volumes {
                match block.apply_limits(id).await {
                    Err(fault) if fault.kind == FaultKind::NotFound => {}
                    other => other?,
                }
            }
            Ok(())
        })
        .await
    }

    /// Brings the limits of all volumes of some types to what their specs say.
    pub(crate) async fn limit_volumes_of(&self, kinds: &[String]) -> Answer<()> {
        let volumes = {
            let tx = self.inner.catalog.read();
            let of_each = kinds.iter().map(|kind| tx.ids(&Volume::of_type(kind)));
            of_each.collect::<Answer<Vec<_>>>()?.concat()
        };
        self.apply_limits_to(&volumes).await
    }

    /// Brings all limits to what the catalog says: a change that was cut off is done again, also one that took limits away.
    pub(crate) async fn limit_all(&self) -> Answer<()> {
        let (mut projects, mut volumes) = {
            let tx = self.inner.catalog.read();
            let projects = tx.all::<ProjectQos>()?;
            let mut limited: Vec<String> = Vec::new();
            for kind in tx.all::<VolumeType>()?.iter().filter(|kind| kind.qos_id.is_some()) {
                limited.extend(tx.ids(&Volume::of_type(&kind.id))?);
            }
            for project in &projects {
                limited.extend(tx.ids(&Volume::of_project(&project.id))?);
            }
            let own = tx.all::<Volume>()?.into_iter().filter(|volume| !volume.qos.is_empty()).map(|volume| volume.id);
            limited.extend(own);
            (projects.into_iter().map(|project| project.id).collect::<Vec<_>>(), limited)
        };
        for info in self.inner.pool.qos_list().await? {
            match info.target.strip_prefix('/') {
                Some(group) => projects.extend(project_of(group)),
                None => volumes.extend(info.target.strip_prefix("volume-").map(str::to_owned)),
            }
        }
        for all in [&mut projects, &mut volumes] {
            all.sort_unstable();
            all.dedup();
        }
        for project in projects {
            self.limit_group(&project).await?;
        }
        self.apply_limits_to(&volumes).await
    }

    /// Brings the limits of a project to what the catalog says.
    async fn limit_group(&self, project: &str) -> Answer<()> {
        let group = group_of(project);
        let _one = self.inner.limiting.hold(&group).await;
        let limits =
            self.inner.catalog.read().get::<ProjectQos>(project)?.map(|found| found.limits).unwrap_or_default();
        let changes: Changes = Limits::KEYS.into_iter().map(|key| (key.to_owned(), limits.get(key).cloned())).collect();
        drop(self.inner.pool.set_qos(&QosTarget::Group(group), &changes).await?);
        Ok(())
    }

    // ---- live ----

    /// All limits there are: of the pool, of groups, of volumes.
    pub(crate) async fn all_limits(&self, caller: &Caller) -> Answer<Vec<QosInfo>> {
        caller.require_admin("qos:list")?;
        Ok(self.inner.pool.qos_list().await?)
    }

    /// A volume's limits, and what was set for it apart from its type.
    pub(crate) async fn volume_limits(&self, caller: &Caller, id: &str) -> Answer<(QosInfo, BTreeMap<String, String>)> {
        let volume: Volume = self.find(caller, id)?;
        Ok((self.inner.pool.qos(&volume.engine_name().parse()?).await?, volume.qos))
    }

    /// Changes a volume's own limits; none: all of them go.
    pub(crate) async fn set_volume_limits(&self, caller: &Caller, id: &str, changes: Option<Changes>) -> Answer<()> {
        caller.require_admin("qos:update")?;
        let changes = changes.unwrap_or_else(|| nothing(&[GROUP]));
        check_keys(&changes, &[GROUP])?;
        let (block, caller, id) = (self.clone(), caller.clone(), id.to_owned());
        to_its_end(async move { block.change_volume_limits(&caller, &id, &changes).await }).await
    }

    async fn change_volume_limits(&self, caller: &Caller, id: &str, changes: &Changes) -> Answer<()> {
        let _one = self.inner.limiting.hold(id).await;
        let after = |tx: &Tx<'_>| -> Answer<(Volume, bool)> {
            let mut volume: Volume = owned(tx, caller, id)?;
            let had = volume.qos.contains_key(GROUP);
            volume.qos = changed(&volume.qos, changes);
            check(&volume.qos)?;
            if let Some(group) = volume.qos.get(GROUP) {
                let _named: QosTarget = format!("/{group}").parse()?;
            }
            let leaves = had && !volume.qos.contains_key(GROUP);
            Ok((volume, leaves))
        };
        let (_, leaves) = after(&self.inner.catalog.read())?;
        if leaves {
            // Before the catalog forgets that it has chosen the group: afterwards it could be an operator's, which stays.
            let left = self.inner.pool.set_qos(&engine_volume(id).parse()?, &[(GROUP.to_owned(), None)]).await;
            again(left, ErrorKind::NotFound)?;
        }
        let type_id = self.change(caller, |tx| {
            let (volume, _) = after(tx)?;
            tx.put(&volume)?;
            Ok(volume.type_id)
        })?;
        self.bring_limits(id, &type_id).await
    }

    /// The limits of all volumes of a project together.
    pub(crate) async fn project_limits(&self, caller: &Caller, project: &str) -> Answer<Option<QosInfo>> {
        if !caller.sees(project) {
            return Err(Fault::missing("Project", project));
        }
        match self.inner.catalog.read().get::<ProjectQos>(project)? {
            Some(_) => Ok(Some(self.inner.pool.qos(&QosTarget::Group(group_of(project))).await?)),
            None => Ok(None),
        }
    }

    /// Changes them; none: they go, and the volumes are in no group any more.
    pub(crate) async fn set_project_limits(
        &self,
        caller: &Caller,
        project: &str,
        changes: Option<Changes>,
    ) -> Answer<()> {
        caller.require_admin("qos:update")?;
        let _named: QosTarget = format!("/{}", group_of(project)).parse()?;
        if let Some(changes) = &changes {
            check_keys(changes, &[])?;
        }
        self.change(caller, |tx| {
            let old = tx.get::<ProjectQos>(project)?;
            let limits = old.clone().map(|old| old.limits).unwrap_or_default();
            let limits = changes.as_ref().map(|changes| changed(&limits, changes)).unwrap_or_default();
            check(&limits)?;
            let now = ProjectQos { id: project.to_owned(), limits };
            match now.limits.is_empty() {
                true if old.is_some() => tx.remove::<ProjectQos>(project)?,
                true => {}
                false => tx.put(&now)?,
            }
            Ok(())
        })?;
        let (block, project) = (self.clone(), project.to_owned());
        to_its_end(async move {
            block.limit_group(&project).await?;
            let volumes = block.inner.catalog.read().ids(&Volume::of_project(&project))?;
            block.apply_limits_to(&volumes).await
        })
        .await
    }

    /// The limits of the pool, or of a group of the engine.
    pub(crate) async fn engine_limits(&self, caller: &Caller, target: &QosTarget) -> Answer<QosInfo> {
        caller.require_admin("qos:show")?;
        Ok(self.inner.pool.qos(target).await?)
    }

    /// Changes them; none: all of them go. The engine keeps them, so the event comes after.
    pub(crate) async fn set_engine_limits(
        &self,
        caller: &Caller,
        target: &QosTarget,
        changes: Option<Changes>,
    ) -> Answer<QosInfo> {
        caller.require_admin("qos:update")?;
        let more: &[&str] = if *target == QosTarget::Pool { &["queue_depth"] } else { &[] };
        let changes = changes.unwrap_or_else(|| nothing(more));
        check_keys(&changes, more)?;
        let info = self.inner.pool.set_qos(target, &changes).await?;
        self.tell_done(caller, &Subject { kind: "qos", id: target.to_string(), project: None })?;
        Ok(info)
    }
}
