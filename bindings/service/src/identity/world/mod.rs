//! A service without a network, two projects with users of each role, and objects of the first: what tests and fuzz targets ask.

mod objects;
mod table;

pub(crate) use objects::Objects;
#[cfg(test)]
pub(crate) use table::Rule;
pub(crate) use table::{Line, TABLE};

use ::http::{HeaderValue, Method, Request, Response};
use axum::{Router, body::Body};
use cairn_backup::{InitOptions, Location, Repository};
use cairn_engine::{OpenOptions, Pool, PoolOptions, StorageKind};
use http_body_util::BodyExt;
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use crate::{
    NbdListener, Settings,
    backup::{Fillings, RepositoryRef},
    block::{Block, Parts},
    catalog::{Catalog, Project, Tx, User, VolumeType, audit, now_us},
    daemon::{self, http},
    domain::{QuotaKey, Resource, Role, new_id},
    identity::{
        Identity, Own,
        directory::{give_grant, new_project, plain_id},
        own::{Basis, greatest_grant, issue},
    },
    rest::Rest,
    secrets,
};

#[cfg(test)]
use crate::catalog::{Intent, Op};

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Caller {
    Nobody,
    /// In the project whose objects they are.
    Here(Role),
    /// In another one.
    There(Role),
    /// The user that the objects name, who is a member of the project.
    Themselves,
}

impl Caller {
    pub(crate) const ALL: [Self; 8] = [
        Self::Nobody,
        Self::Here(Role::Reader),
        Self::Here(Role::Member),
        Self::Here(Role::Admin),
        Self::There(Role::Reader),
        Self::There(Role::Member),
        Self::There(Role::Admin),
        Self::Themselves,
    ];

    pub(crate) fn role(self) -> Role {
        match self {
            Self::Nobody => Role::Reader,
            Self::Here(role) | Self::There(role) => role,
            Self::Themselves => Role::Member,
        }
    }

    pub(crate) fn is_here(self) -> bool {
        matches!(self, Self::Here(_) | Self::Themselves)
    }

    pub(crate) fn is_admin(self) -> bool {
        self != Self::Nobody && self.role() == Role::Admin
    }
}

#[cfg(test)]
impl World {
    /// Waits until no image is being filled.
    pub(crate) async fn images_are_filled(&self) {
        let fills = |intent: &Intent| matches!(intent.op, Op::ReceiveImage | Op::ImageOfVolume { .. });
        let since = std::time::Instant::now();
        while self.block.catalog().read().all::<Intent>().unwrap().iter().any(fills) {
            assert!(since.elapsed() < Duration::from_mins(2), "images are filled for ever");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// A directory in memory, where there is some: there are thousands of transactions.
#[cfg(test)]
pub(crate) fn memory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let parent = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::Builder::new().prefix("cairn-security.").tempdir_in(parent).unwrap()
}

pub(crate) struct World {
    pool: Pool,
    pub(crate) block: Block,
    listener: NbdListener,
    own: Own,
    pub(crate) routes: Router,
    /// The project whose objects they are, and the other one.
    pub(crate) here: String,
    there: String,
    tokens: BTreeMap<Caller, String>,
    /// Hash of "the password".
    hash: String,
    default_type: String,
}

fn put_user(tx: &mut Tx<'_>, hash: &str, name: &str) -> User {
    let user = User {
        id: plain_id(),
        name: name.to_owned(),
        enabled: true,
        description: None,
        email: None,
        password: Some(hash.to_owned()),
        default_project: None,
        rules_hold: false,
        rules: Vec::new(),
        epoch: 0,
        created_us: now_us(),
    };
    tx.put(&user).unwrap();
    user
}

fn token_of(tx: &mut Tx<'_>, user: &User, project: Option<&str>) -> String {
    let project: Option<Project> = project.map(|id| tx.require(id).unwrap());
    let grant = project.as_ref().map(|project| greatest_grant(tx, &user.id, &project.id).unwrap().unwrap());
    let basis = Basis {
        methods: vec!["password".to_owned()],
        project: project.as_ref(),
        role: grant.as_ref().map_or(Role::Reader, |grant| grant.role),
        grant: grant.map(|grant| grant.id),
        credential: None,
        until_us: None,
    };
    issue(tx, user, basis).unwrap().0
}

impl World {
    /// In an empty directory.
    pub(crate) async fn new(path: &Path) -> Self {
        let options = PoolOptions::new().size(64 << 20).open(OpenOptions::new().storage(StorageKind::Pread));
        let pool = Pool::create(path.join("pool"), options).await.unwrap();
        let mut location = Location::new(format!("file://{}", path.join("repository").display()));
        location.cache = Some(path.join("cache"));
        drop(Repository::init(&location, &InitOptions::default()).await.unwrap());
        let address = format!("unix:{}", path.join("nbd").display()).parse().unwrap();
        let listener = NbdListener::start(&pool, address, cairn_nbd::Options::default()).await.unwrap();
        let repository = RepositoryRef { url: location.url, cache: location.cache, ..RepositoryRef::default() };
        let settings = Settings { over_subscription: 1e9, repository: Some(repository), ..Settings::default() };
        let block = Block::new(Parts {
            catalog: Catalog::open(&path.join("catalog"), settings.kept()).unwrap(),
            pool: pool.clone(),
            listeners: vec![listener.clone()],
            exports: Arc::default(),
            disks: None,
            settings,
            hook: daemon::no_hook(),
            fillings: Fillings::default(),
            opening: new_id(),
        })
        .unwrap();
        let hash = secrets::hash("the password").unwrap();
        let own = Own::new("http://x".to_owned(), block.catalog().clone()).unwrap();
        let rest = Rest { block: block.clone(), identity: Identity::Own(own.clone()), url: "http://x".to_owned() };
        let default_type = block.catalog().read().all::<VolumeType>().unwrap().remove(0).id;
        let mut world = Self {
            pool,
            block,
            listener,
            own,
            routes: http::routes(&rest, 1 << 20),
            here: String::new(),
            there: String::new(),
            tokens: BTreeMap::new(),
            hash,
            default_type,
        };
        world.settle();
        world
    }

    /// The projects and their users.
    fn settle(&mut self) {
        let (hash, mut tokens) = (self.hash.clone(), BTreeMap::new());
        let made = self.own.catalog().write(|tx| {
            let (here, there) = (new_project("here"), new_project("there"));
            for project in [&here, &there] {
                tx.put(project)?;
                let unbounded = [
                    Resource::Volumes,
                    Resource::Snapshots,
                    Resource::Gigabytes,
                    Resource::Backups,
                    Resource::BackupGigabytes,
                    Resource::Groups,
                    Resource::Images,
                    Resource::ImageGigabytes,
                ];
                tx.set_limits(Some(&project.id), &unbounded.map(|resource| (QuotaKey::of(resource), -1)))?;
                for role in Role::ALL {
                    let user = put_user(tx, &hash, &format!("{} {}", role.as_str(), project.name));
                    give_grant(tx, &user.id, &project.id, role)?;
                    let caller = if project.id == here.id { Caller::Here(role) } else { Caller::There(role) };
                    let _none = tokens.insert(caller, token_of(tx, &user, Some(&project.id)));
                }
            }
            Ok((here.id, there.id))
        });
        (self.here, self.there) = made.unwrap();
        self.tokens = tokens;
    }

    /// The token of a caller.
    pub(crate) fn token(&self, caller: Caller, objects: &Objects) -> Option<Vec<u8>> {
        match caller {
            Caller::Nobody => None,
            Caller::Themselves => Some(objects.token.clone().into_bytes()),
            other => Some(self.tokens[&other].clone().into_bytes()),
        }
    }

    /// Tokens that were good, or never were.
    #[cfg(test)]
    pub(crate) fn bad_tokens(&self) -> Vec<(&'static str, Vec<u8>)> {
        use crate::catalog::{Grant, Token};

        let change = |what: &dyn Fn(&mut Tx<'_>, &User, &str)| {
            let made = self.own.catalog().write(|tx| {
                let user = put_user(tx, &self.hash, &format!("bad {}", new_id()));
                give_grant(tx, &user.id, &self.here, Role::Admin)?;
                let token = token_of(tx, &user, Some(&self.here));
                what(tx, &user, &token);
                Ok(token)
            });
            made.unwrap().into_bytes()
        };
        let expired = change(&|tx, _, secret| {
            let mut token: Token = tx.require(&secrets::digest(secret)).unwrap();
            token.expires_us = now_us() - 1;
            tx.put(&token).unwrap();
        });
        let revoked = change(&|tx, _, secret| tx.remove::<Token>(&secrets::digest(secret)).unwrap());
        let disabled = change(&|tx, user, _| tx.put(&User { enabled: false, ..user.clone() }).unwrap());
        let changed = change(&|tx, user, _| tx.put(&User { epoch: 1, ..user.clone() }).unwrap());
        let deleted = change(&|tx, user, _| tx.remove::<User>(&user.id).unwrap());
        let no_role = change(&|tx, user, _| {
            for grant in tx.ids(&Grant::of_user(&user.id, None)).unwrap() {
                tx.remove::<Grant>(&grant).unwrap();
            }
            give_grant(tx, &user.id, &self.here, Role::Admin).unwrap();
        });
        vec![
            ("empty", Vec::new()),
            ("made up", b"garbage".to_vec()),
            ("of another mode", b"admin:here".to_vec()),
            ("the hash of one", secrets::digest(&self.tokens[&Caller::Here(Role::Admin)]).into_bytes()),
            ("too long", vec![b'x'; 4096]),
            ("no text", b"\xff\xfe".to_vec()),
            ("expired", expired),
            ("revoked", revoked),
            ("of a user who was disabled", disabled),
            ("of before another password", changed),
            ("of a user who was deleted", deleted),
            ("by a role that was taken, and given again", no_role),
        ]
    }

    /// A request, with the objects' token as its subject. Answers the status and the body.
    pub(crate) async fn ask(
        &self,
        method: &Method,
        path: &str,
        token: Option<&[u8]>,
        objects: &Objects,
        body: &str,
    ) -> (u16, String) {
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("OpenStack-API-Version", "volume 3.71")
            .header("X-Subject-Token", &objects.token);
        if let Some(token) = token {
            request = request.header("X-Auth-Token", HeaderValue::from_bytes(token).unwrap());
        }
        let answer = self.answer(request.body(Body::from(body.to_owned())).unwrap()).await;
        let status = answer.status().as_u16();
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(text.to_vec()).unwrap())
    }

    /// The answer to a request.
    pub(crate) async fn answer(&self, request: Request<Body>) -> Response<Body> {
        match http::answer(self.routes.clone(), request, Duration::from_secs(60)).await {
            Ok(answer) => answer,
            Err(never) => match never {},
        }
    }

    /// What is wrong with the catalog.
    pub(crate) fn problems(&self) -> Vec<String> {
        audit(&self.own.catalog().read(), true).unwrap()
    }

    /// The catalog is sound after all that.
    #[cfg(test)]
    pub(crate) async fn end(self) {
        self.block.settled().await;
        assert_eq!(self.problems(), Vec::<String>::new());
        self.listener.server().stop().await.unwrap();
        self.pool.close().await.unwrap();
    }
}

impl Line {
    /// Its request: method, path and body, with the objects' names filled in.
    #[cfg(test)]
    pub(crate) fn request(&self, objects: &Objects) -> (Method, String, String) {
        (self.method.parse().unwrap(), objects.fill(self.path()), objects.fill(self.body))
    }
}
