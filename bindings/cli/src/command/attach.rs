//! `cairn attach` and `cairn detach`: disks for virtual machines, and the lines with which these use them.

use cairn_engine::ErrorKind;
use cairn_service::{Client, Failure, control, vhost_user::VhostExport};
use serde::Serialize;
use serde_json::json;

use super::pool_of;
use crate::{
    args::{AttachArgs, DetachArgs, Global},
    output::Output,
};

/// An export, and how to use it.
#[derive(Serialize)]
struct Attached {
    #[serde(flatten)]
    export: VhostExport,
    #[serde(rename = "use")]
    usage: Usage,
}

/// What three programs are told, without what they need besides.
#[derive(Serialize)]
struct Usage {
    qemu: Vec<String>,
    cloud_hypervisor: Vec<String>,
    /// Elements of a domain, and of its devices.
    libvirt: Vec<String>,
}

/// The server: what is made here must outlive the command.
async fn server(global: &Global) -> Result<Client, Failure> {
    let pool = pool_of(global)?;
    match control::find_server(&pool).await? {
        Some((client, _)) => Ok(client),
        None => {
            let text = format!("pool {} is not served: start cairn serve --vhost-user DIR", pool.display());
            Err(Failure::new(ErrorKind::NotFound, text))
        }
    }
}

pub(super) async fn attach(global: &Global, args: AttachArgs, output: &Output) -> Result<(), Failure> {
    let export = server(global).await?.create_export(&args.target).await?;
    let usage = Usage::of(&export, args.queues);
    let text = described(&args.target, &export, &usage);
    output.result(&Attached { export, usage }, text)
}

pub(super) async fn detach(global: &Global, args: DetachArgs, output: &Output) -> Result<(), Failure> {
    server(global).await?.delete_export(&args.target, args.force).await?;
    output.result(&json!({ "detached": args.target }), format!("detached {}", args.target))
}

fn described(target: &str, export: &VhostExport, usage: &Usage) -> String {
    let line = |words: &[String]| words.iter().map(|word| shell(word)).collect::<Vec<_>>();
    // An option and its value on a line each.
    let lines =
        |words: &[String]| line(words).chunks(2).map(|pair| pair.join(" ")).collect::<Vec<_>>().join(" \\\n    ");
    let kind = if export.read_only { "read-only disk" } else { "disk" };
    format!(
        "{target} is offered as a {kind} to one virtual machine at a time, at\n    {}\n\
         The virtual machine's memory must be shared, and be all of it in one such object; 4G stands for its size.\n\n\
         QEMU:\n    {}\n\ncloud-hypervisor:\n    {}\n\nlibvirt, in <domain> and in <devices>:\n{}",
        export.socket,
        lines(&usage.qemu),
        lines(&usage.cloud_hypervisor),
        usage.libvirt.join("\n").lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n"),
    )
}

impl Usage {
    fn of(export: &VhostExport, queues: u16) -> Self {
        let id = identifier(&export.name);
        let socket = &export.socket;
        let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        // A comma ends a value, two are one.
        let path = socket.replace(',', ",,");
        let qemu = words(&[
            "-object",
            "memory-backend-memfd,id=mem,size=4G,share=on",
            "-numa",
            "node,memdev=mem",
            "-chardev",
            &format!("socket,id={id},path={path},reconnect=1"),
            "-device",
            &format!("vhost-user-blk-pci,chardev={id},num-queues={queues}"),
        ]);
        // Where a value has a comma, it is quoted as a whole.
        let quoted = if socket.contains(',') { format!("\"{socket}\"") } else { socket.clone() };
        let cloud_hypervisor = words(&[
            "--memory",
            "size=4G,shared=on",
            "--disk",
            &format!("vhost_user=on,socket={quoted},num_queues={queues},queue_size=256"),
        ]);
        let path = xml(socket);
        let libvirt = vec![
            "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>".to_owned(),
            format!(
                "<disk type='vhostuser' device='disk'>\n  <driver name='qemu' type='raw' queues='{queues}'/>\n  \
                 <source type='unix' path='{path}'><reconnect enabled='yes' timeout='1'/></source>\n  \
                 <target dev='vdb' bus='virtio'/>\n</disk>"
            ),
        ];
        Self { qemu, cloud_hypervisor, libvirt }
    }
}

/// A name as QEMU takes identifiers: letters, digits, `-`, `.` and `_`, beginning with a letter.
fn identifier(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_') { c } else { '-' };
    format!("cairn-{}", name.chars().map(plain).collect::<String>())
}

/// A word as a shell takes it.
fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=,:@+%".contains(c);
    if word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', "'\\''")) }
}

/// A text as XML takes it within single quotes.
fn xml(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('\'', "&apos;")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn export(name: &str, socket: &str) -> VhostExport {
        VhostExport {
            name: name.into(),
            socket: socket.into(),
            read_only: name.contains('@'),
            client: None,
            refused: None,
        }
    }

    #[test]
    fn the_lines_are_what_the_programs_take() {
        let export = export("db", "/run/db.sock");
        let usage = Usage::of(&export, 2);
        assert_eq!(usage.qemu[5], "socket,id=cairn-db,path=/run/db.sock,reconnect=1");
        assert_eq!(usage.qemu[7], "vhost-user-blk-pci,chardev=cairn-db,num-queues=2");
        assert_eq!(usage.cloud_hypervisor[3], "vhost_user=on,socket=/run/db.sock,num_queues=2,queue_size=256");
        let text = described("db", &export, &usage);
        assert!(text.contains("    -chardev socket,id=cairn-db,path=/run/db.sock,reconnect=1 \\\n"), "{text}");
        assert!(text.contains("must be shared") && text.contains("share=on") && text.contains("mode='shared'"));
    }

    #[test]
    fn names_that_are_special_somewhere_stay_what_they_are() {
        let export = export("it's, a@<disk>", "/run/it's, a@<disk>.sock");
        let usage = Usage::of(&export, 1);
        assert_eq!(usage.qemu[5], "socket,id=cairn-it-s--a--disk-,path=/run/it's,, a@<disk>.sock,reconnect=1");
        assert!(usage.cloud_hypervisor[3].contains("socket=\"/run/it's, a@<disk>.sock\","));
        assert!(usage.libvirt[1].contains("path='/run/it&apos;s, a@&lt;disk>.sock'"));
        let text = described("it's, a@<disk>", &export, &usage);
        assert!(text.contains("path=/run/it'\\''s,, a@<disk>.sock,reconnect=1' \\\n"), "{text}");
    }
}
