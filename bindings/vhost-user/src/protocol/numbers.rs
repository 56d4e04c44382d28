//! Numbers of the protocol. Names as in its document, which says what they mean.

#![allow(missing_docs)]

// Requests of the front-end.
pub(crate) const GET_FEATURES: u32 = 1;
pub(crate) const SET_FEATURES: u32 = 2;
pub(crate) const SET_OWNER: u32 = 3;
pub(crate) const RESET_OWNER: u32 = 4;
pub(crate) const SET_MEM_TABLE: u32 = 5;
pub(crate) const SET_VRING_NUM: u32 = 8;
pub(crate) const SET_VRING_ADDR: u32 = 9;
pub(crate) const SET_VRING_BASE: u32 = 10;
pub(crate) const GET_VRING_BASE: u32 = 11;
pub(crate) const SET_VRING_KICK: u32 = 12;
pub(crate) const SET_VRING_CALL: u32 = 13;
pub(crate) const SET_VRING_ERR: u32 = 14;
pub(crate) const GET_PROTOCOL_FEATURES: u32 = 15;
pub(crate) const SET_PROTOCOL_FEATURES: u32 = 16;
pub(crate) const GET_QUEUE_NUM: u32 = 17;
pub(crate) const SET_VRING_ENABLE: u32 = 18;
pub(crate) const SET_BACKEND_REQ_FD: u32 = 21;
pub(crate) const GET_CONFIG: u32 = 24;
pub(crate) const SET_CONFIG: u32 = 25;
pub(crate) const GET_INFLIGHT_FD: u32 = 31;
pub(crate) const SET_INFLIGHT_FD: u32 = 32;
pub(crate) const RESET_DEVICE: u32 = 34;
pub(crate) const GET_MAX_MEM_SLOTS: u32 = 36;
pub(crate) const ADD_MEM_REG: u32 = 37;
pub(crate) const REM_MEM_REG: u32 = 38;

/// Request of the back-end: the configuration space has changed.
pub(crate) const BACKEND_CONFIG_CHANGE: u32 = 2;

// Flags of a header.
pub(crate) const VERSION_MASK: u32 = 3;
pub(crate) const VERSION: u32 = 1;
pub(crate) const REPLY: u32 = 1 << 2;
pub(crate) const NEED_REPLY: u32 = 1 << 3;

/// In the body of kick, call and error messages: the ring's number, and that no descriptor comes with it.
pub(crate) const VRING_INDEX_MASK: u64 = 0xff;
pub(crate) const VRING_NO_FD: u64 = 1 << 8;

// Protocol features.
pub(crate) const PROTOCOL_MQ: u64 = 1 << 0;
pub(crate) const PROTOCOL_REPLY_ACK: u64 = 1 << 3;
pub(crate) const PROTOCOL_BACKEND_REQ: u64 = 1 << 5;
pub(crate) const PROTOCOL_CONFIG: u64 = 1 << 9;
pub(crate) const PROTOCOL_INFLIGHT_SHMFD: u64 = 1 << 12;
pub(crate) const PROTOCOL_RESET_DEVICE: u64 = 1 << 13;
pub(crate) const PROTOCOL_CONFIGURE_MEM_SLOTS: u64 = 1 << 15;

/// What this back-end can do.
pub(crate) const PROTOCOL_FEATURES: u64 = PROTOCOL_MQ
    | PROTOCOL_REPLY_ACK
    | PROTOCOL_BACKEND_REQ
    | PROTOCOL_CONFIG
    | PROTOCOL_INFLIGHT_SHMFD
    | PROTOCOL_RESET_DEVICE
    | PROTOCOL_CONFIGURE_MEM_SLOTS;

/// The bit among the virtio features that says that there are protocol features.
pub(crate) const F_PROTOCOL_FEATURES: u64 = 1 << 30;
