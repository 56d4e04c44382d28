//! Backups and restores over the routes: lines of progress, and volumes that go on being filled after a restart.

use cairn_engine::{IoBuf, MIB, OpenOptions, Pool, PoolOptions, StorageKind, VolumeOptions};
use cairn_service::{
    Client, State,
    backup::{CreateBackup, RepositoryRef, RestoreBackup},
};
use std::{fs, net::TcpListener, path::Path, time::Duration};
use tempfile::TempDir;

fn open_options() -> OpenOptions {
    OpenOptions::new().storage(StorageKind::Pread)
}

async fn site() -> (TempDir, Pool, RepositoryRef) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pool");
    let pool = Pool::create(&path, PoolOptions::new().size(256 * MIB).open(open_options())).await.unwrap();
    let volume = pool.create_volume("db", 32 * MIB, VolumeOptions::default()).await.unwrap();
    for at in 0..16 {
        let content: Vec<u8> = (0..MIB).map(|i| ((i * i) >> 7) as u8 ^ at as u8 | 1).collect();
        volume.write(at * 2 * MIB, IoBuf::from(&content[..])).await.unwrap();
    }
    let url = format!("file://{}", directory.path().join("repository").display());
    let cache = Some(directory.path().join("cache"));
    let repository = RepositoryRef { url, cache, ..RepositoryRef::default() };
    let options = cairn_backup::InitOptions::default();
    drop(cairn_backup::Repository::init(&repository.location().unwrap(), &options).await.unwrap());
    (directory, pool, repository)
}

async fn content(pool: &Pool, name: &str) -> Vec<u8> {
    let volume = pool.volume(name).await.unwrap();
    let mut all = Vec::new();
    for at in 0..32 {
        all.extend_from_slice(&volume.read(at * MIB, MIB as usize).await.unwrap());
    }
    all
}

fn create(repository: &RepositoryRef) -> CreateBackup {
    let (repository, volume) = (repository.clone(), "db".to_owned());
    CreateBackup { repository, volume, options: Default::default(), limit: None }
}

fn restore(repository: &RepositoryRef, backup: &str, volume: &str, limit: Option<u64>) -> RestoreBackup {
    let (repository, backup, volume) = (repository.clone(), backup.to_owned(), volume.to_owned());
    RestoreBackup { repository, backup, volume, options: Default::default(), limit }
}

fn notes(directory: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(directory.join("pool.restores")).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

#[tokio::test]
async fn there_and_back_with_progress() {
    let (_directory, pool, repository) = site().await;
    let client = Client::in_process(State::new(pool.clone()));
    let backup = client.create_backup(&create(&repository), |_| {}).await.unwrap();
    assert_eq!((backup.size, backup.statistics.read), (32 * MIB, 16 * MIB));
    let mut last = None;
    let request = restore(&repository, &backup.id, "again", None);
    let restored = client.restore_backup(&request, |progress| last = Some(progress)).await.unwrap();
    assert_eq!((restored.written, restored.holes.len()), (16 * MIB, 0));
    assert!(last.is_some(), "nothing was told on the way");
    assert_eq!(content(&pool, "again").await, content(&pool, "db").await);
    let missing = restore(&repository, "ffff", "x", None);
    assert_eq!(client.restore_backup(&missing, |_| {}).await.unwrap_err().kind, cairn_engine::ErrorKind::NotFound);
    pool.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_volume_goes_on_being_filled_after_a_restart() {
    let (directory, pool, repository) = site().await;
    let state = State::new(pool.clone());
    let client = Client::in_process(state.clone());
    let backup = client.create_backup(&create(&repository), |_| {}).await.unwrap();
    let expected = content(&pool, "db").await;
    // So slow that it cannot be through.
    let filling = client.restore_instantly(&restore(&repository, &backup.id, "now", Some(1024))).await.unwrap();
    assert_eq!((filling.volume.as_str(), filling.backup.as_str()), ("now", backup.id.as_str()));
    assert_eq!(client.fillings().await.unwrap().len(), 1);
    pool.close().await.unwrap();
    drop((client, state));

    let pool = Pool::open(directory.path().join("pool"), open_options()).await.unwrap();
    assert_eq!(pool.volume("now").await.err().unwrap().kind(), cairn_engine::ErrorKind::Busy);
    let [note] = &notes(directory.path())[..] else { panic!("one note") };
    let text = fs::read_to_string(note).unwrap();
    assert!(text.contains("\"limit\":1024"), "{text}");
    fs::write(note, text.replace("\"limit\":1024", "\"limit\":null")).unwrap();
    let state = State::new(pool.clone());
    assert_eq!(state.resume_restores().await.unwrap(), Vec::<String>::new());
    assert_eq!(content(&pool, "now").await, expected);
    let client = Client::in_process(state);
    while !client.fillings().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert!(notes(directory.path()).is_empty());
    let _snapshot = client.create_snapshots(&["now@s".to_owned()]).await.unwrap();
    assert_eq!(content(&pool, "now").await, expected);
    pool.close().await.unwrap();
}

#[tokio::test]
async fn what_cannot_go_on_is_told_and_can_be_deleted() {
    let (directory, pool, repository) = site().await;
    let client = Client::in_process(State::new(pool.clone()));
    let backup = client.create_backup(&create(&repository), |_| {}).await.unwrap();
    let request = restore(&repository, &backup.id, "now", Some(1024));
    let _filling = client.restore_instantly(&request).await.unwrap();
    pool.close().await.unwrap();
    notes(directory.path()).iter().for_each(|note| fs::remove_file(note).unwrap());
    let pool = Pool::open(directory.path().join("pool"), open_options()).await.unwrap();
    let state = State::new(pool.clone());
    let stuck = state.resume_restores().await.unwrap();
    assert!(matches!(&stuck[..], [text] if text.contains("volume now") && text.contains("delete")), "{stuck:?}");
    let client = Client::in_process(state);
    let _deleted = client.delete_volume("now", false, false).await.unwrap();
    // One that is being filled goes, too.
    let _filling = client.restore_instantly(&request).await.unwrap();
    let _deleted = client.delete_volume("now", false, false).await.unwrap();
    assert_eq!(client.fillings().await.unwrap(), []);
    pool.close().await.unwrap();
}

#[tokio::test]
async fn neither_a_refused_deletion_nor_a_new_name_disturbs_a_filling() {
    let (_directory, pool, repository) = site().await;
    let client = Client::in_process(State::new(pool.clone()));
    let backup = client.create_backup(&create(&repository), |_| {}).await.unwrap();
    let _filling = client.restore_instantly(&restore(&repository, &backup.id, "now", Some(1024))).await.unwrap();
    let names = async || -> Vec<String> {
        client.fillings().await.unwrap().into_iter().filter(|f| f.error.is_none()).map(|f| f.volume).collect()
    };
    let user = pool.volume("now").await.unwrap();
    let refused = client.delete_volume("now", false, false).await.unwrap_err();
    assert_eq!(refused.kind, cairn_engine::ErrorKind::Busy);
    assert!(refused.message.contains("1 open"), "{}", refused.message);
    assert_eq!(names().await, ["now"]);
    drop(user);
    let _renamed = pool.rename("now", "later").await.unwrap();
    drop(pool.create_volume("now", MIB, VolumeOptions::default()).await.unwrap());
    let _deleted = client.delete_volume("now", false, false).await.unwrap();
    assert_eq!(names().await, ["later"]);
    let _deleted = client.delete_volume("later", false, false).await.unwrap();
    assert_eq!(names().await, [""; 0]);
    pool.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filling_that_its_store_stopped_goes_on_by_itself() {
    let (directory, pool, repository) = site().await;
    let client = Client::in_process(State::new(pool.clone()));
    let backup = client.create_backup(&create(&repository), |_| {}).await.unwrap();
    // A pack that can be found and not be read.
    let sessions = fs::read_dir(directory.path().join("repository/packs")).unwrap();
    let packs = sessions.flat_map(|session| fs::read_dir(session.unwrap().path()).unwrap());
    let packs: Vec<_> = packs.map(|pack| pack.unwrap().path()).collect();
    let aside = |n: usize| directory.path().join(format!("aside-{n}"));
    for (n, pack) in packs.iter().enumerate() {
        fs::rename(pack, aside(n)).unwrap();
        std::os::unix::fs::symlink(pack, pack).unwrap();
    }
    let _filling = client.restore_instantly(&restore(&repository, &backup.id, "now", None)).await.unwrap();
    let why = async || client.fillings().await.unwrap().first().and_then(|filling| filling.error.clone());
    let told = loop {
        match why().await {
            Some(error) => break error,
            None => tokio::task::yield_now().await,
        }
    };
    assert!(told.contains("packs/") && told.contains("tried again"), "{told}");
    for (n, pack) in packs.iter().enumerate() {
        fs::remove_file(pack).unwrap();
        fs::rename(aside(n), pack).unwrap();
    }
    while !client.fillings().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(content(&pool, "now").await, content(&pool, "db").await);
    pool.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_filling_whose_repository_is_away_at_the_start_waits_for_it() {
    let (directory, pool, repository) = site().await;
    let client = Client::in_process(State::new(pool.clone()));
    let backup = client.create_backup(&create(&repository), |_| {}).await.unwrap();
    let expected = content(&pool, "db").await;
    // So slow that it cannot be through.
    let _filling = client.restore_instantly(&restore(&repository, &backup.id, "now", Some(1024))).await.unwrap();
    pool.close().await.unwrap();
    drop(client);

    let [note] = &notes(directory.path())[..] else { panic!("one note") };
    let text = fs::read_to_string(note).unwrap();
    fs::write(note, text.replace("\"limit\":1024", "\"limit\":null")).unwrap();
    let (place, away) = (directory.path().join("repository"), directory.path().join("away"));
    fs::rename(&place, &away).unwrap();
    let pool = Pool::open(directory.path().join("pool"), open_options()).await.unwrap();
    let state = State::new(pool.clone());
    let stuck = state.resume_restores().await.unwrap();
    assert!(matches!(&stuck[..], [text] if text.contains("volume now") && text.contains("tried again")), "{stuck:?}");
    let client = Client::in_process(state);
    let waiting = client.fillings().await.unwrap();
    assert!(matches!(&waiting[..], [one] if one.volume == "now" && one.backup == backup.id), "{waiting:?}");
    fs::rename(&away, &place).unwrap();
    while !client.fillings().await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    assert_eq!(content(&pool, "now").await, expected);
    assert!(notes(directory.path()).is_empty());
    pool.close().await.unwrap();
}

/// A repository whose store takes connections, and says nothing.
fn silent() -> (TcpListener, RepositoryRef) {
    let store = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", store.local_addr().unwrap());
    let options = [
        ("aws_endpoint", endpoint.as_str()),
        ("aws_allow_http", "true"),
        ("aws_access_key_id", "test"),
        ("aws_secret_access_key", "test"),
        ("aws_region", "us-east-1"),
    ];
    let options = options.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    (store, RepositoryRef { url: "s3://bucket/r".to_owned(), options, ..RepositoryRef::default() })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_waits_for_a_store_that_says_nothing() {
    let (directory, pool, _) = site().await;
    let (_store, repository) = silent();
    let place = directory.path().join("pool.restores");
    fs::create_dir(&place).unwrap();
    for name in ["one", "two"] {
        let options = VolumeOptions { filling: true, ..VolumeOptions::default() };
        drop(pool.create_volume(name, MIB, options).await.unwrap());
        let id = pool.volume_info(name).await.unwrap().id.0;
        let note = serde_json::json!({"restore": restore(&repository, "abcd", name, None)});
        fs::write(place.join(format!("{id}.json")), note.to_string()).unwrap();
    }
    let state = State::new(pool.clone());
    let resumed = tokio::time::timeout(Duration::from_secs(60), state.resume_restores()).await;
    let stuck = resumed.expect("it does not wait").unwrap();
    let told = |name: &str| stuck.iter().any(|text| text.contains(name) && text.contains("has not answered yet"));
    assert!(stuck.len() == 2 && told("volume one") && told("volume two"), "{stuck:?}");
    // What they need is needed all the while, and who does not want one any more may delete it.
    let client = Client::in_process(state);
    let backups = async || -> Vec<String> {
        client.fillings().await.unwrap().into_iter().map(|f| format!("{} {}", f.volume, f.backup)).collect()
    };
    assert_eq!(backups().await, ["one abcd", "two abcd"]);
    let _deleted = client.delete_volume("one", false, false).await.unwrap();
    assert_eq!((backups().await, notes(directory.path()).len()), (vec!["two abcd".to_owned()], 1));
    pool.close().await.unwrap();
}
