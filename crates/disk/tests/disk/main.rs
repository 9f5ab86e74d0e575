//! The disks, from outside: what they must do, that they agree, and what no crash, full disk or
//! damage may do to them.

mod agreement;
mod calls;
mod conformance;
mod crash;
mod damage;
mod session;
