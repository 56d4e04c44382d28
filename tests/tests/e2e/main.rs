//! The whole, end to end: `cairn` processes, and the NBD clients that people use.

mod backups_guest;
mod bad_input;
mod clients_fio;
mod clients_libnbd;
mod clients_qemu;
mod crash;
mod damage;
mod full_disk;
mod full_pool;
mod golden;
mod hostile;
mod images;
mod random;
mod snapshots;
mod tls;
mod vhost_guest;
