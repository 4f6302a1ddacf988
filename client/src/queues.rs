//! The queues that jobs wait in.

use crate::call::timed;
use crate::error::Error;
use crate::pool::Client;
use crate::v1;
use proto::v1::queues_client::QueuesClient;

impl Client {
    /// All queues by name.
    pub async fn queues(&self) -> Result<Vec<v1::QueueStatus>, Error> {
        let answer = self
            .ask(|channel, span| {
                let request = timed(v1::ListQueuesRequest::default(), span);
                async move { QueuesClient::new(channel).list(request).await }
            })
            .await?;
        Ok(answer.queues)
    }

    /// Makes a queue; the very same queue again changes nothing.
    pub async fn create_queue(&self, queue: &v1::Queue) -> Result<v1::QueueStatus, Error> {
        self.call(|channel, span| {
            let request = timed(queue.clone(), span);
            async move { QueuesClient::new(channel).create(request).await }
        })
        .await
    }

    /// Replaces weight and quotas of a queue.
    pub async fn update_queue(&self, queue: &v1::Queue) -> Result<v1::QueueStatus, Error> {
        self.call(|channel, span| {
            let request = timed(queue.clone(), span);
            async move { QueuesClient::new(channel).update(request).await }
        })
        .await
    }

    /// Deletes a queue that nothing is in.
    pub async fn delete_queue(&self, name: &str) -> Result<(), Error> {
        self.call(|channel, span| {
            let request = timed(v1::DeleteQueueRequest { name: name.to_owned() }, span);
            async move { QueuesClient::new(channel).delete(request).await }
        })
        .await
        .map(|_| ())
    }
}
