//! The tables, pair by pair, against what is written down here: all that is not here is refused.

use super::*;

/// For each state: those that some move leads to.
fn pairs<M: Move>(all: &[M::State]) -> Vec<String> {
    let reached = |from: M::State| {
        let legal = |to: &M::State| M::TABLE.iter().any(|row| row.name.apply_to(from, *to).is_ok());
        let mut names: Vec<_> = all.iter().filter(|to| legal(to)).map(|to| M::name(*to)).collect();
        names.sort_unstable();
        format!("{}: {}", M::name(from), names.join(" "))
    };
    all.iter().map(|from| reached(*from)).collect()
}

#[test]
fn volumes_pair_by_pair() {
    let expected = [
        "creating: available deleting downloading error",
        "available: attaching awaiting-transfer backing-up deleting downloading extending in-use reserved restoring-backup retyping \
         reverting uploading",
        "reserved: attaching available deleting in-use reserved",
        "attaching: attaching available deleting in-use reserved",
        "in-use: attaching available backing-up deleting detaching extending in-use reserved retyping uploading",
        "detaching: attaching available deleting in-use reserved",
        "extending: available error_extending in-use",
        "error_extending: deleting",
        "uploading: available in-use",
        "downloading: attaching available error reserved",
        "backing-up: available in-use",
        "restoring-backup: available error_restoring",
        "error_restoring: deleting",
        "reverting: available error",
        "retyping: available in-use",
        "awaiting-transfer: available deleting",
        "maintenance: deleting",
        "managing: available deleting error",
        "deleting: error_deleting",
        "error_deleting: deleting",
        "error: deleting downloading",
    ];
    assert_eq!(pairs::<VolumeMove>(VolumeStatus::ALL), expected);
}

#[test]
fn snapshots_pair_by_pair() {
    let expected = [
        "creating: available deleting error",
        "available: backing-up deleting restoring",
        "backing-up: available",
        "restoring: available",
        "deleting: error_deleting",
        "error_deleting: deleting",
        "error: deleting",
    ];
    assert_eq!(pairs::<SnapshotMove>(SnapshotStatus::ALL), expected);
}

#[test]
fn backups_pair_by_pair() {
    let expected = [
        "creating: available deleting error",
        "available: deleting restoring",
        "restoring: available deleting",
        "deleting: error",
        "error: deleting",
    ];
    assert_eq!(pairs::<BackupMove>(BackupStatus::ALL), expected);
}

#[test]
fn attachments_pair_by_pair() {
    let expected = [
        "reserved: attached attaching detached error_attaching",
        "attaching: attached attaching detached error_attaching",
        "attached: attached attaching detached detaching",
        "detaching: attached detached error_detaching",
        "detached: ",
        "error_attaching: detached",
        "error_detaching: detached",
    ];
    assert_eq!(pairs::<AttachmentMove>(AttachmentStatus::ALL), expected);
}

#[test]
fn what_users_ask_for_begins_in_these_states_only() {
    let starts = |wanted: VolumeMove| {
        let ok = VolumeStatus::ALL.iter().filter(|state| wanted.check(**state).is_ok());
        ok.map(|state| state.as_str()).collect::<Vec<_>>().join(" ")
    };
    assert_eq!(starts(VolumeMove::Delete), "available error_extending error_restoring error_deleting error");
    assert_eq!(starts(VolumeMove::Extend), "available in-use");
    assert_eq!(starts(VolumeMove::Restore), "available");
    assert_eq!(starts(VolumeMove::BackUp), "available in-use");
    assert_eq!(starts(VolumeMove::Revert), "available");
    assert_eq!(starts(VolumeMove::OfferTransfer), "available");
    assert_eq!(starts(VolumeMove::BeginDetach), "in-use");
    assert_eq!(starts(VolumeMove::RollDetach), "detaching");
}

#[test]
fn a_refusal_names_the_state_and_what_would_do() {
    let refused = VolumeMove::Extend.apply(VolumeStatus::Deleting).unwrap_err();
    assert_eq!(refused.to_string(), "status is deleting, and must be available or in-use to be extended");
    // Several ends: which one has to be said.
    assert!(VolumeMove::Extended.apply(VolumeStatus::Extending).is_err());
    assert_eq!(VolumeMove::Extended.apply_to(VolumeStatus::Extending, VolumeStatus::InUse), Ok(VolumeStatus::InUse));
    assert!(VolumeMove::Extended.apply_to(VolumeStatus::Extending, VolumeStatus::Error).is_err());
}

#[test]
fn no_state_is_a_trap_and_each_can_be_reached() {
    // From every state of a volume some move leads on, and the owner or a task can bring it to its end.
    for state in VolumeStatus::ALL {
        assert!(VolumeMove::TABLE.iter().any(|row| row.from.contains(state)), "{state}");
    }
    for state in SnapshotStatus::ALL {
        assert!(SnapshotMove::TABLE.iter().any(|row| row.from.contains(state)), "{state}");
    }
    for state in BackupStatus::ALL {
        assert!(BackupMove::TABLE.iter().any(|row| row.from.contains(state)), "{state}");
    }
    // An error of a volume can be cleared by its owner: by deleting it.
    for state in VolumeStatus::ALL.iter().filter(|state| state.as_str().starts_with("error")) {
        VolumeMove::Delete.check(*state).unwrap();
    }
}

#[test]
fn groups_pair_by_pair() {
    let expected = [
        "creating: available error",
        "available: deleting",
        "deleting: error_deleting",
        "error_deleting: deleting",
        "error: deleting",
    ];
    assert_eq!(pairs::<GroupMove>(GroupStatus::ALL), expected);
    assert_eq!(pairs::<GroupSnapshotMove>(GroupSnapshotStatus::ALL), expected);
}

#[test]
fn images_pair_by_pair() {
    let expected = [
        "queued: pending_delete saving",
        "saving: active killed queued",
        "active: pending_delete",
        "killed: pending_delete",
        "pending_delete: killed",
    ];
    assert_eq!(pairs::<ImageMove>(ImageStatus::ALL), expected);
}
