//! Our memory comes from the server, which accounts it. Tests run outside a server.

#[global_allocator]
static ALLOCATOR: redis_module::alloc::RedisAlloc = redis_module::alloc::RedisAlloc;
