//! stub
use crate::*;
/// Redis.
pub struct RedisBroker;
impl RedisBroker {
    /// Opens.
    pub fn open(_config: BusConfig) -> Result<Self, BusError> {
        todo!()
    }
}
#[async_trait]
impl Broker for RedisBroker {
    async fn create(&self, _: SessionId) -> Result<(), BusError> {
        todo!()
    }
    async fn claim(&self, _: SessionId, _: ClaimRequest) -> Result<Claim, ClaimError> {
        todo!()
    }
    async fn append(&self, _: &Batch) -> Result<Appended, BusError> {
        todo!()
    }
    async fn close(&self, _: SessionId) -> Result<bool, BusError> {
        todo!()
    }
    async fn attach(&self, _: SessionId, _: Start, _: Arc<dyn Outlet>) -> Result<Attachment, BusError> {
        todo!()
    }
    async fn send_up(&self, _: SessionId, _: Bytes) -> Result<(), BusError> {
        todo!()
    }
    fn control(&self) -> Option<mpsc::Receiver<Control>> {
        todo!()
    }
    fn ready(&self) -> watch::Receiver<bool> {
        todo!()
    }
    fn counters(&self) -> CountersSnapshot {
        todo!()
    }
}
