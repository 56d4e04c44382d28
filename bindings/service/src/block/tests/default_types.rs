//! Default types of projects: whom they are for, and what keeps them whole.

use super::world::{World, admin, caller};
use crate::{
    block::{Caller, NewType, NewVolume, Role},
    catalog::{DefaultType, VolumeType, audit},
    fault::{Answer, Fault, FaultKind},
};
use std::collections::BTreeMap;

fn refused<T>(outcome: Answer<T>) -> Fault {
    outcome.map(drop).unwrap_err()
}

fn made(world: &World, name: &str, public: bool) -> VolumeType {
    let new = NewType { name: name.to_owned(), description: None, public, extra_specs: BTreeMap::new() };
    world.block.create_type(&admin(), new).unwrap()
}

fn one_gib() -> NewVolume {
    NewVolume { size: Some(1), ..NewVolume::default() }
}

/// The type of what somebody makes.
async fn type_of(world: &World, who: &Caller, new: NewVolume) -> String {
    let volume = world.block.create_volume(who, new).await.unwrap();
    world.block.settled().await;
    volume.type_id
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn volumes_that_name_no_type_are_of_their_projects_default() {
    let world = World::new().await;
    let (gold, silver) = (made(&world, "gold", true), made(&world, "silver", true));
    let (here, there) = (caller("p", Role::Member), caller("q", Role::Member));
    let usual = world.block.volume_type(&here, "default").unwrap();
    assert_eq!(type_of(&world, &here, one_gib()).await, usual.id);
    let set = world.block.set_default_type(&admin(), "p", "gold", false).unwrap();
    assert_eq!(set, DefaultType { project: "p".to_owned(), type_id: gold.id.clone() });
    assert_eq!(world.block.volume_type(&here, "default").unwrap(), gold);
    assert_eq!(world.block.volume_type(&there, "default").unwrap(), usual);
    let of_gold = world.block.create_volume(&here, one_gib()).await.unwrap();
    world.block.settled().await;
    assert_eq!(of_gold.type_id, gold.id);
    assert_eq!(type_of(&world, &here, NewVolume { volume_type: Some(String::new()), ..one_gib() }).await, gold.id);
    assert_eq!(type_of(&world, &there, one_gib()).await, usual.id, "of another project");
    // What is named comes first, then the source's.
    assert_eq!(
        type_of(&world, &here, NewVolume { volume_type: Some("silver".to_owned()), ..one_gib() }).await,
        silver.id
    );
    drop(world.block.set_default_type(&admin(), "p", &silver.id, false).unwrap());
    let copy = NewVolume { source: Some(of_gold.id), ..NewVolume::default() };
    assert_eq!(type_of(&world, &here, copy).await, gold.id);
    assert_eq!(type_of(&world, &here, one_gib()).await, silver.id, "another one from now on");
    world.block.unset_default_type(&admin(), "p").unwrap();
    world.block.unset_default_type(&admin(), "p").unwrap();
    assert_eq!(type_of(&world, &here, one_gib()).await, usual.id);
    assert!(world.block.default_types(&admin()).unwrap().is_empty());
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_is_not_deleted() {
    let world = World::new().await;
    let (block, gold, silver) = (&world.block, made(&world, "gold", true), made(&world, "silver", true));
    for project in ["p", "q"] {
        drop(block.set_default_type(&admin(), project, "gold", false).unwrap());
    }
    let delete = || block.delete_type(&admin(), &gold.id);
    let fault = refused(delete());
    assert_eq!(fault.kind, FaultKind::BadRequest);
    assert!(fault.message.contains("of project p and of others"), "{fault}");
    block.unset_default_type(&admin(), "p").unwrap();
    let fault = refused(delete());
    assert!(fault.message.contains("of project q. Unset it"), "{fault}");
    drop(block.set_default_type(&admin(), "q", "silver", false).unwrap());
    delete().unwrap();
    assert_eq!(block.default_type_of(&admin(), "q").unwrap().type_id, silver.id);
    assert_eq!(refused(block.default_type_of(&admin(), "p")).kind, FaultKind::NotFound);
    world.sound().await;
    // The audit tells of one whose type is gone.
    block.catalog().write(|tx| tx.remove::<VolumeType>(&silver.id)).unwrap();
    let problems = audit(&block.catalog().read(), false).unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert!(problems[0].contains(&silver.id), "{problems:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_default_that_the_project_may_not_use_is_no_other_type() {
    let world = World::new().await;
    let (block, hidden, member) = (&world.block, made(&world, "hidden", false), caller("p", Role::Member));
    drop(block.set_default_type(&admin(), "p", "hidden", false).unwrap());
    let fault = refused(block.create_volume(&member, one_gib()).await);
    assert_eq!(fault.kind, FaultKind::NotFound);
    assert!(fault.message.contains("name another type"), "{fault}");
    assert!(!fault.message.contains("hidden") && !fault.message.contains(&hidden.id), "{fault}");
    assert_eq!(refused(block.volume_type(&member, "default")), fault);
    assert_eq!(type_of(&world, &admin(), one_gib()).await, hidden.id, "administrators may use all of them");
    let open = |kind: &mut VolumeType| {
        kind.projects.extend(["p".to_owned()]);
        Ok(())
    };
    drop(block.change_type(&admin(), &hidden.id, open).unwrap());
    assert_eq!(type_of(&world, &member, one_gib()).await, hidden.id);
    world.sound().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_administrators_set_defaults_and_only_of_what_there_is() {
    let world = World::new().await;
    let (block, member) = (&world.block, caller("p", Role::Member));
    drop(made(&world, "gold", true));
    drop(block.set_default_type(&admin(), "p", "gold", false).unwrap());
    for fault in [
        refused(block.set_default_type(&member, "p", "gold", false)),
        refused(block.unset_default_type(&member, "p")),
        refused(block.default_type_of(&member, "p")),
        refused(block.default_types(&member)),
    ] {
        assert_eq!(fault.kind, FaultKind::Forbidden, "{fault}");
    }
    let set = |project: &str, wanted: &str, listed| refused(block.set_default_type(&admin(), project, wanted, listed));
    for wanted in ["bananas", "", "default"] {
        assert_eq!(set("p", wanted, false).kind, FaultKind::BadRequest, "{wanted}");
    }
    assert_eq!(set(&"p".repeat(256), "gold", false).kind, FaultKind::NotFound);
    assert_eq!(set("nobody", "gold", true).kind, FaultKind::NotFound, "the catalog has no such project");
    let all = block.default_types(&admin()).unwrap();
    assert_eq!(all.iter().map(|default| default.project.as_str()).collect::<Vec<_>>(), ["p"]);
    world.sound().await;
}
