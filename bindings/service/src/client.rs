//! Calls of the control interface: over the control socket of a server, or in this process on a pool of its own.

use axum::{Router, body::Body};
use bytes::{Buf, Bytes, BytesMut};
use cairn_backup::{Backup, Progress, Restored};
use cairn_engine::{
    CheckReport, ErrorKind, ExtentPage, Pace, PoolStats, QosInfo, QosTarget, RegroupOptions, RegroupOutcome,
    RegroupProgress, RegroupStatus, RepairPlan, RepairReport, ScrubOutcome, ScrubProgress, ScrubStatus, SnapshotInfo,
    VolumeInfo, VolumeOptions,
};
use http::{Method, Request, Response, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper_util::{
    client::legacy,
    rt::{TokioExecutor, TokioIo},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    future::Future,
    io,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};
use tokio::net::UnixStream;
use tower::{Service, ServiceExt};

use crate::{
    Failure, Result, State,
    api::{
        At, ByteRange, Check, CreateClone, CreateExport, CreateSnapshots, CreateVolume, Deleted, Deletion, Difference,
        ErrorAnswer, Events, Line, Listing, MAX_BODY, NumberedEvent, QosList, Regroup, Rename, Resize, Revert, Scrub,
        Since, Snapshots, Status, Steps, Volumes, VolumesStats, Withdrawal,
    },
    backup::{CreateBackup, FillingVolume, FillingVolumes, RestoreBackup},
    control,
    qos::Changes,
    router,
    vhost_user::VhostExport,
};

/// What stays as it is in one segment of a path.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'@');

/// Answers other than data are at most this long; a diff or listing page is far below.
const MAX_ANSWER: usize = 256 << 20;

/// A caller of the control interface. Cheap to clone; calls may overlap.
#[derive(Clone)]
pub struct Client {
    way: Way,
}

#[derive(Clone)]
enum Way {
    InProcess(Router),
    Socket(Box<legacy::Client<UnixConnector, Body>>, Arc<Path>),
}

impl Client {
    /// Calls the routes in this process.
    #[must_use]
    pub fn in_process(state: State) -> Self {
        Self { way: Way::InProcess(router(state)) }
    }

    /// Calls a server over its control socket. Connects only when called.
    #[must_use]
    pub fn over_socket(path: impl Into<PathBuf>) -> Self {
        let path: Arc<Path> = path.into().into();
        let client = legacy::Client::builder(TokioExecutor::new()).build(UnixConnector { path: path.clone() });
        Self { way: Way::Socket(Box::new(client), path) }
    }

    /// Who holds the pool, what is exported and who is connected.
    pub async fn status(&self) -> Result<Status> {
        self.get("/v1/status".into()).await
    }

    /// Asks the server to stop. It answers before it has stopped.
    pub async fn shutdown(&self) -> Result<()> {
        self.act(Method::POST, "/v1/shutdown".into(), Body::empty()).await
    }

    /// Offers a volume or snapshot to virtual machines.
    pub async fn create_export(&self, target: &str) -> Result<VhostExport> {
        self.send(Method::POST, "/v1/exports".into(), &CreateExport { target: target.to_owned() }).await
    }

    /// Offers it no longer; with `force`, also when a virtual machine uses it, which then loses it.
    pub async fn delete_export(&self, target: &str, force: bool) -> Result<()> {
        let uri = with_query(&at("/v1/exports", target, ""), &Withdrawal { force })?;
        self.act(Method::DELETE, uri, Body::empty()).await
    }

    /// State of the pool.
    pub async fn stats(&self) -> Result<PoolStats> {
        self.get("/v1/pool".into()).await
    }

    /// What each volume was asked for since the holder opened the pool.
    pub async fn volume_stats(&self) -> Result<VolumesStats> {
        self.get("/v1/pool/volume-stats".into()).await
    }

    /// Limits of the pool, all groups, and all volumes that have any or are in a group.
    pub async fn qos_list(&self) -> Result<Vec<QosInfo>> {
        let list: QosList = self.get("/v1/qos".into()).await?;
        Ok(list.qos)
    }

    /// Limits, and what is left of them.
    pub async fn qos(&self, target: &QosTarget) -> Result<QosInfo> {
        self.get(limits_of(target)).await
    }

    /// Changes limits: all changes at once, or none.
    pub async fn set_qos(&self, target: &QosTarget, changes: &Changes) -> Result<QosInfo> {
        self.send(Method::PATCH, limits_of(target), changes).await
    }

    /// Takes out everything that was set.
    pub async fn clear_qos(&self, target: &QosTarget) -> Result<QosInfo> {
        self.answer(Method::DELETE, limits_of(target)).await
    }

    /// Events after number `since`.
    pub async fn events(&self, since: u64) -> Result<Vec<NumberedEvent>> {
        let events: Events = self.get(with_query("/v1/pool/events", &Since { since })?).await?;
        Ok(events.events)
    }

    /// Commits and checkpoints.
    pub async fn checkpoint(&self) -> Result<()> {
        self.act(Method::POST, "/v1/pool/checkpoint".into(), Body::empty()).await
    }

    /// Waits until everything deleted so far has given back its space.
    pub async fn wait_deleted(&self) -> Result<()> {
        self.act(Method::POST, "/v1/pool/wait-deleted".into(), Body::empty()).await
    }

    /// Checks the pool; `progress(done, total)` in blocks.
    pub async fn check(&self, read_data: bool, mut progress: impl FnMut(u64, u64)) -> Result<CheckReport> {
        let uri = with_query("/v1/pool/check", &Check { read_data })?;
        self.lines(Method::POST, uri, None, "check", |steps: Steps| progress(steps.done, steps.total)).await
    }

    /// Backs up a volume.
    pub async fn create_backup(&self, request: &CreateBackup, progress: impl FnMut(Progress)) -> Result<Backup> {
        self.lines(Method::POST, "/v1/backups".into(), Some(json(request)?), "backup", progress).await
    }

    /// Restores a backup.
    pub async fn restore_backup(&self, request: &RestoreBackup, progress: impl FnMut(Progress)) -> Result<Restored> {
        self.lines(Method::POST, "/v1/restores".into(), Some(json(request)?), "restore", progress).await
    }

    /// Makes a volume that has a backup's content from the start, and is filled in the background.
    pub async fn restore_instantly(&self, request: &RestoreBackup) -> Result<FillingVolume> {
        self.send(Method::POST, "/v1/restores/instant".into(), request).await
    }

    /// The volumes that are being filled.
    pub async fn fillings(&self) -> Result<Vec<FillingVolume>> {
        let answer: FillingVolumes = self.get("/v1/restores".into()).await?;
        Ok(answer.filling)
    }

    /// Begins a scrub.
    pub async fn start_scrub(&self, pace: Pace) -> Result<ScrubProgress> {
        self.send(Method::POST, "/v1/pool/scrub".into(), &Scrub { pace }).await
    }

    /// The scrub under way, and how the last one ended.
    pub async fn scrub_status(&self) -> Result<ScrubStatus> {
        self.get("/v1/pool/scrub".into()).await
    }

    /// Waits for the end of the scrub under way.
    pub async fn watch_scrub(&self, progress: impl FnMut(ScrubProgress)) -> Result<ScrubOutcome> {
        self.lines(Method::GET, "/v1/pool/scrub/watch".into(), None, "scrub", progress).await
    }

    /// Has the scrub under way go faster or slower.
    pub async fn set_scrub_pace(&self, pace: Pace) -> Result<ScrubProgress> {
        self.send(Method::PUT, "/v1/pool/scrub".into(), &Scrub { pace }).await
    }

    /// Ends the scrub under way.
    pub async fn cancel_scrub(&self) -> Result<ScrubOutcome> {
        self.answer(Method::DELETE, "/v1/pool/scrub".into()).await
    }

    /// Begins to regroup a volume.
    pub async fn start_regroup(&self, volume: &str, options: RegroupOptions) -> Result<RegroupProgress> {
        let RegroupOptions { pace, dry_run } = options;
        let request = Regroup { volume: volume.to_owned(), pace, dry_run };
        self.send(Method::POST, "/v1/pool/regroup".into(), &request).await
    }

    /// The regroup under way, and how the last one ended.
    pub async fn regroup_status(&self) -> Result<RegroupStatus> {
        self.get("/v1/pool/regroup".into()).await
    }

    /// Waits for the end of the regroup under way.
    pub async fn watch_regroup(&self, progress: impl FnMut(RegroupProgress)) -> Result<RegroupOutcome> {
        self.lines(Method::GET, "/v1/pool/regroup/watch".into(), None, "regroup", progress).await
    }

    /// Has the regroup under way go faster or slower.
    pub async fn set_regroup_pace(&self, pace: Pace) -> Result<RegroupProgress> {
        self.send(Method::PUT, "/v1/pool/regroup".into(), &Scrub { pace }).await
    }

    /// Ends the regroup under way.
    pub async fn cancel_regroup(&self) -> Result<RegroupOutcome> {
        self.answer(Method::DELETE, "/v1/pool/regroup".into()).await
    }

    /// What a repair would do; `progress(done, total)` in blocks. Changes nothing.
    pub async fn plan_repair(&self, read_data: bool, mut progress: impl FnMut(u64, u64)) -> Result<RepairPlan> {
        let uri = with_query("/v1/pool/repair/plan", &Check { read_data })?;
        self.lines(Method::POST, uri, None, "check", |steps: Steps| progress(steps.done, steps.total)).await
    }

    /// Does what a plan says.
    pub async fn repair(&self, plan: &RepairPlan, mut progress: impl FnMut(u64, u64)) -> Result<RepairReport> {
        let progress = |steps: Steps| progress(steps.done, steps.total);
        self.lines(Method::POST, "/v1/pool/repair".into(), Some(json(plan)?), "repair", progress).await
    }

    /// Reads an answer line by line, up to its report.
    async fn lines<P: DeserializeOwned, R: DeserializeOwned>(
        &self,
        method: Method,
        uri: String,
        body: Option<Body>,
        what: &str,
        mut progress: impl FnMut(P),
    ) -> Result<R> {
        let content_type = body.as_ref().map(|_| "application/json");
        let body = body.unwrap_or_else(Body::empty);
        let mut answer = self.call(method, uri, content_type, body).await?.into_body();
        let mut pending = BytesMut::new();
        while let Some(frame) = answer.frame().await {
            let frame = frame.map_err(|error| self.lost(&error))?;
            if let Ok(data) = frame.into_data() {
                pending.extend_from_slice(&data);
            }
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line = pending.split_to(end);
                pending.advance(1);
                match parse::<Line<P, R>>(&line)? {
                    Line::Progress(value) => progress(value),
                    Line::Report(report) => return Ok(report),
                    Line::Error(error) => return Err(error.into()),
                }
            }
        }
        let text = format!("the {what} ended without a result: the server of the pool has stopped");
        Err(Failure::new(ErrorKind::Closed, text))
    }

    /// All volumes, by name.
    pub async fn volumes(&self, exclusive: bool) -> Result<Vec<VolumeInfo>> {
        let volumes: Volumes = self.get(with_query("/v1/volumes", &Listing { volume: None, exclusive })?).await?;
        Ok(volumes.volumes)
    }

    /// One volume.
    pub async fn volume(&self, name: &str, exclusive: bool) -> Result<VolumeInfo> {
        self.get(with_query(&at("/v1/volumes", name, ""), &Listing { volume: None, exclusive })?).await
    }

    /// Creates a volume.
    pub async fn create_volume(&self, name: &str, size: u64, options: VolumeOptions) -> Result<VolumeInfo> {
        self.send(Method::POST, "/v1/volumes".into(), &CreateVolume { name: name.into(), size, options }).await
    }

    /// Deletes a volume, with `cascade` and its snapshots; what is gone.
    pub async fn delete_volume(&self, name: &str, cascade: bool, wait: bool) -> Result<Vec<String>> {
        let uri = with_query(&at("/v1/volumes", name, ""), &Deletion { cascade, wait })?;
        let deleted: Deleted = self.answer(Method::DELETE, uri).await?;
        Ok(deleted.deleted)
    }

    /// Grows a volume.
    pub async fn resize(&self, name: &str, size: u64) -> Result<VolumeInfo> {
        self.send(Method::POST, at("/v1/volumes", name, "/resize"), &Resize { size }).await
    }

    /// Renames a volume.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<VolumeInfo> {
        self.send(Method::POST, at("/v1/volumes", name, "/rename"), &Rename { name: new_name.into() }).await
    }

    /// Replaces the options of a volume.
    pub async fn set_options(&self, name: &str, options: &VolumeOptions) -> Result<VolumeInfo> {
        self.send(Method::PUT, at("/v1/volumes", name, "/options"), options).await
    }

    /// Sets a volume back to its snapshot.
    pub async fn revert(&self, name: &str, snapshot: &str, force: bool) -> Result<VolumeInfo> {
        let body = Revert { snapshot: snapshot.into(), force };
        self.send(Method::POST, at("/v1/volumes", name, "/revert"), &body).await
    }

    /// Snapshots of one volume, or all.
    pub async fn snapshots(&self, volume: Option<&str>, exclusive: bool) -> Result<Vec<SnapshotInfo>> {
        let listing = Listing { volume: volume.map(str::to_owned), exclusive };
        let snapshots: Snapshots = self.get(with_query("/v1/snapshots", &listing)?).await?;
        Ok(snapshots.snapshots)
    }

    /// One snapshot, `volume@snapshot`.
    pub async fn snapshot(&self, target: &str, exclusive: bool) -> Result<SnapshotInfo> {
        self.get(with_query(&at("/v1/snapshots", target, ""), &Listing { volume: None, exclusive })?).await
    }

    /// Takes all snapshots, or none, at one moment.
    pub async fn create_snapshots(&self, targets: &[String]) -> Result<Vec<SnapshotInfo>> {
        let body = CreateSnapshots { targets: targets.to_vec() };
        let snapshots: Snapshots = self.send(Method::POST, "/v1/snapshots".into(), &body).await?;
        Ok(snapshots.snapshots)
    }

    /// Deletes a snapshot.
    pub async fn delete_snapshot(&self, target: &str, wait: bool) -> Result<()> {
        let uri = with_query(&at("/v1/snapshots", target, ""), &Deletion { cascade: false, wait })?;
        self.answer::<Deleted>(Method::DELETE, uri).await.map(drop)
    }

    /// Makes a volume that starts from a snapshot.
    pub async fn clone_volume(&self, snapshot: &str, name: &str, size: Option<u64>) -> Result<VolumeInfo> {
        let body = CreateClone { snapshot: snapshot.into(), name: name.into(), size };
        self.send(Method::POST, "/v1/clones".into(), &body).await
    }

    /// A page of what `to` holds that `from` does not.
    pub async fn diff(&self, from: Option<&str>, to: &str, offset: u64) -> Result<ExtentPage> {
        let query = Difference { from: from.map(str::to_owned), to: to.into(), offset };
        self.get(with_query("/v1/diff", &query)?).await
    }

    /// A page of the extents of a volume or snapshot.
    pub async fn extents(&self, target: &str, offset: u64, length: u64) -> Result<ExtentPage> {
        self.get(with_query(&at("/v1/extents", target, ""), &ByteRange { offset, length })?).await
    }

    /// Reads at most [`MAX_BODY`] bytes.
    pub async fn read(&self, target: &str, offset: u64, length: usize) -> Result<Bytes> {
        let uri = with_query(&at("/v1/data", target, ""), &ByteRange { offset, length: length as u64 })?;
        let data = self.fetch(Method::GET, uri, None, Body::empty(), MAX_BODY).await?;
        if data.len() != length {
            return Err(Failure::new(
                ErrorKind::Io,
                format!("asked for {length} bytes of \"{target}\" at {offset} and got {}", data.len()),
            ));
        }
        Ok(data)
    }

    /// Writes at most [`MAX_BODY`] bytes.
    pub async fn write(&self, volume: &str, offset: u64, data: Bytes) -> Result<()> {
        let uri = with_query(&at("/v1/data", volume, ""), &At { offset })?;
        self.act(Method::PUT, uri, Body::from(data)).await
    }

    /// Makes a range read as zeros.
    pub async fn zero(&self, volume: &str, offset: u64, length: u64) -> Result<()> {
        let body = json(&ByteRange { offset, length })?;
        self.fetch(Method::POST, at("/v1/zero", volume, ""), Some("application/json"), body, MAX_ANSWER).await.map(drop)
    }

    /// Commits all writes that were answered before.
    pub async fn flush(&self, volume: &str) -> Result<()> {
        self.act(Method::POST, at("/v1/flush", volume, ""), Body::empty()).await
    }

    async fn get<T: DeserializeOwned>(&self, uri: String) -> Result<T> {
        self.answer(Method::GET, uri).await
    }

    async fn answer<T: DeserializeOwned>(&self, method: Method, uri: String) -> Result<T> {
        parse(&self.fetch(method, uri, None, Body::empty(), MAX_ANSWER).await?)
    }

    async fn send<T: DeserializeOwned>(&self, method: Method, uri: String, body: &impl Serialize) -> Result<T> {
        parse(&self.fetch(method, uri, Some("application/json"), json(body)?, MAX_ANSWER).await?)
    }

    async fn act(&self, method: Method, uri: String, body: Body) -> Result<()> {
        self.fetch(method, uri, None, body, MAX_ANSWER).await.map(drop)
    }

    async fn fetch(
        &self,
        method: Method,
        uri: String,
        content_type: Option<&'static str>,
        body: Body,
        limit: usize,
    ) -> Result<Bytes> {
        let answer = self.call(method, uri, content_type, body).await?;
        axum::body::to_bytes(answer.into_body(), limit).await.map_err(|error| self.lost(&error))
    }

    /// One request; an answer that tells of a failure becomes that failure.
    async fn call(
        &self,
        method: Method,
        uri: String,
        content_type: Option<&'static str>,
        body: Body,
    ) -> Result<Response<Body>> {
        let uri = match &self.way {
            Way::InProcess(_) => uri,
            // HTTP wants an authority, which means nothing on a unix socket.
            Way::Socket(..) => format!("http://cairn{uri}"),
        };
        let mut request = Request::builder().method(method).uri(uri);
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request =
            request.body(body).map_err(|error| Failure::invalid(format!("cannot form a request: {error}")))?;
        let answer = match &self.way {
            Way::InProcess(router) => match router.clone().oneshot(request).await {
                Ok(answer) => answer,
                Err(never) => match never {},
            },
            Way::Socket(client, _) => client.request(request).await.map_err(|e| self.lost(&e))?.map(Body::new),
        };
        if answer.status().is_success() {
            return Ok(answer);
        }
        Err(self.refusal(answer).await)
    }

    async fn refusal(&self, answer: Response<Body>) -> Failure {
        let status = answer.status();
        let text = match axum::body::to_bytes(answer.into_body(), 1 << 20).await {
            Ok(text) => text,
            Err(error) => return self.lost(&error),
        };
        match serde_json::from_slice::<ErrorAnswer>(&text) {
            Ok(answer) => answer.error.into(),
            Err(_) => unexpected(status),
        }
    }

    fn lost(&self, error: &dyn std::error::Error) -> Failure {
        // The HTTP library wraps the cause that matters ("connection refused") in words about itself.
        let mut cause = error;
        while let Some(inner) = cause.source() {
            cause = inner;
        }
        let peer = match &self.way {
            Way::InProcess(_) => "the pool".to_owned(),
            Way::Socket(_, path) => format!("the server of the pool at {}", path.display()),
        };
        Failure::new(ErrorKind::Closed, format!("lost {peer}: {cause}"))
    }
}

fn unexpected(status: StatusCode) -> Failure {
    Failure::new(ErrorKind::Io, format!("the server answered {status} without saying why: is it another program?"))
}

/// `root/name` and `rest`, with the name as one segment whatever it holds.
fn at(root: &str, name: &str, rest: &str) -> String {
    format!("{root}/{}{rest}", utf8_percent_encode(name, SEGMENT))
}

fn limits_of(target: &QosTarget) -> String {
    at("/v1/qos", &target.to_string(), "")
}

fn with_query(path: &str, query: &impl Serialize) -> Result<String> {
    let query = serde_urlencoded::to_string(query)
        .map_err(|error| Failure::invalid(format!("cannot form the query of {path}: {error}")))?;
    Ok(format!("{path}?{query}"))
}

fn json(body: &impl Serialize) -> Result<Body> {
    let text = serde_json::to_vec(body).map_err(|error| Failure::invalid(format!("cannot form a request: {error}")))?;
    Ok(Body::from(text))
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    serde_json::from_slice(text)
        .map_err(|error| Failure::new(ErrorKind::Unsupported, format!("answer in a form not known here: {error}")))
}

/// Connects to one unix socket, whatever the address of the request.
#[derive(Clone)]
struct UnixConnector {
    path: Arc<Path>,
}

impl Service<Uri> for UnixConnector {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.path.clone();
        Box::pin(async move { Ok(TokioIo::new(control::connect(&path).await?)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_one_segment() {
        assert_eq!(at("/v1/volumes", "a b%?#é", "/resize"), "/v1/volumes/a%20b%25%3F%23%C3%A9/resize");
        assert_eq!(at("/v1/data", "vol@snap", ""), "/v1/data/vol@snap");
        assert_eq!(limits_of(&QosTarget::Pool), "/v1/qos/%2F");
    }

    #[test]
    fn queries_leave_out_what_is_not_given() {
        let query = Difference { from: None, to: "a@b".into(), offset: 0 };
        assert_eq!(with_query("/v1/diff", &query).unwrap(), "/v1/diff?to=a%40b&offset=0");
    }
}
