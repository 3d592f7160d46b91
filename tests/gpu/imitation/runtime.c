/* libcudart: one GPU whose memory is the host's. Copies copy, kernels do nothing, and what would be queued is written to a log.
 *
 * What a capture forbids fails as it does on a GPU (error 900) and is written down: waiting, copies that wait, and taking memory,
 * unless the thread has asked for relaxed captures; waiting for the captured stream ever. What is not here returns 0, success; see
 * run.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <driver_types.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static FILE *log_;
static __thread int capturing_, relaxed_;
static __thread void *captured_;
static uintptr_t handle_ = 0x1000;

#define SAY(...) do { if (log_) { fprintf(log_, __VA_ARGS__); fflush(log_); } } while (0)
static __attribute__((constructor)) void open_log(void) {
  const char *path = getenv("IMITATION_LOG");
  if (path) log_ = fopen(path, "a");
}
static void *new_handle(void) { return (void *)__sync_add_and_fetch(&handle_, 16); }
static int forbidden(const char *what, void *stream) {
  if (!capturing_ || (relaxed_ && stream != captured_)) return 0;
  SAY("FORBIDDEN in a capture: %s\n", what);
  return 900;
}
void imitation_note(const char *text) { SAY("# %s\n", text); }
void imitation_kernel(void *stream) { SAY("kernel stream %p\n", stream); }

/* Devices: driver.c says what they are. */
int cuDeviceGetAttribute(int *, int, int);
int cuDeviceGetName(char *, int, int);
int cuDeviceTotalMem_v2(size_t *, int);
int cuMemGetInfo_v2(size_t *, size_t *);
int cudaGetDeviceCount(int *n) { *n = 1; return 0; }
int cudaGetDevice(int *n) { *n = 0; return 0; }
int cudaRuntimeGetVersion(int *v) { *v = 13000; return 0; }
int cudaDriverGetVersion(int *v) { *v = 13000; return 0; }
int cudaMemGetInfo(size_t *left, size_t *all) { return cuMemGetInfo_v2(left, all); }
int cudaDeviceGetAttribute(int *v, int what, int device) { return cuDeviceGetAttribute(v, what, device); }
static int attribute(int what) {
  int v;
  cuDeviceGetAttribute(&v, what, 0);
  return v;
}
int cudaGetDeviceProperties(struct cudaDeviceProp *p, int device) {
  memset(p, 0, sizeof *p);
  cuDeviceGetName(p->name, sizeof p->name, device);
  cuDeviceTotalMem_v2(&p->totalGlobalMem, device);
  p->major = attribute(75); p->minor = attribute(76);
  p->multiProcessorCount = attribute(16); p->warpSize = attribute(10); p->l2CacheSize = attribute(38);
  p->maxThreadsPerBlock = attribute(1); p->maxThreadsPerMultiProcessor = attribute(39);
  p->regsPerBlock = attribute(12); p->regsPerMultiprocessor = attribute(82);
  p->sharedMemPerBlock = attribute(8); p->sharedMemPerBlockOptin = attribute(97); p->sharedMemPerMultiprocessor = attribute(81);
  p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64;
  return 0;
}
int cudaGetDriverEntryPointByVersion(const char *name, void **f, unsigned version, unsigned long long flags, int *status) {
  *f = dlsym(RTLD_DEFAULT, name);
  if (status) *status = *f ? 0 : 1;
  return 0;
}
int cudaGetDriverEntryPoint(const char *name, void **f, unsigned long long flags, int *status) {
  return cudaGetDriverEntryPointByVersion(name, f, 0, flags, status);
}
const char *cudaGetErrorString(int e) { return e == 900 ? "operation not permitted when stream is capturing" : "imitated"; }
const char *cudaGetErrorName(int e) { return e == 900 ? "cudaErrorStreamCaptureUnsupported" : "imitated"; }

/* Memory: all of it zero at first. `kind` is CUDA's cudaMemoryType: 1 pinned on the host, 2 the device's, 0 nobody's. */
#define MOST 65536
static struct { char *at; size_t size; int kind; } blocks_[MOST];
static int blocks_used_, lock_;
static int take(void **p, size_t n, int kind) {
  char *at = aligned_alloc(512, (n + 1023) & ~(size_t)511);
  memset(at, 0, n);
  while (__sync_lock_test_and_set(&lock_, 1)) ;
  int i = 0;
  while (i < blocks_used_ && blocks_[i].at) i++;
  if (i == MOST) abort();
  if (i == blocks_used_) blocks_used_++;
  blocks_[i].at = at; blocks_[i].size = n; blocks_[i].kind = kind;
  __sync_lock_release(&lock_);
  *p = at;
  return 0;
}
static int give_back(void *p) {
  for (int i = 0; p && i < blocks_used_; i++) if (blocks_[i].at == p) blocks_[i].at = 0;
  free(p);
  return 0;
}
int imitation_kind(const void *p) {
  for (int i = 0; i < blocks_used_; i++)
    if (blocks_[i].at && (char *)p >= blocks_[i].at && (char *)p < blocks_[i].at + blocks_[i].size) return blocks_[i].kind;
  return 0;
}
static int allocate(const char *what, void **p, size_t n, int kind) {
  if (forbidden(what, 0)) return 900;
  SAY("%s %zu\n", what, n);
  return take(p, n, kind);
}
int cudaMalloc(void **p, size_t n) { return allocate("cudaMalloc", p, n, 2); }
int cudaHostAlloc(void **p, size_t n, unsigned flags) { return allocate("cudaHostAlloc", p, n, 1); }
int cudaMallocHost(void **p, size_t n) { return allocate("cudaMallocHost", p, n, 1); }
int cudaFree(void *p) { return give_back(p); }
int cudaFreeHost(void *p) { return give_back(p); }
int cudaPointerGetAttributes(struct cudaPointerAttributes *a, const void *p) {
  memset(a, 0, sizeof *a);
  a->type = imitation_kind(p);
  a->devicePointer = a->hostPointer = (void *)p;
  return 0;
}
int cudaMemcpy(void *to, const void *from, size_t n, int kind) {
  if (forbidden("cudaMemcpy", 0)) return 900;
  SAY("cudaMemcpy %zu kind %d\n", n, kind);
  memcpy(to, from, n);
  return 0;
}
int cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, void *s) {
  SAY("cudaMemcpyAsync %zu kind %d stream %p\n", n, kind, s);
  if (!capturing_) memcpy(to, from, n);
  return 0;
}
int cudaMemset(void *at, int v, size_t n) { SAY("cudaMemset %zu\n", n); memset(at, v, n); return 0; }
int cudaMemsetAsync(void *at, int v, size_t n, void *s) {
  SAY("cudaMemsetAsync %zu stream %p\n", n, s);
  if (!capturing_) memset(at, v, n);
  return 0;
}

/* Streams, events, graphs. */
int cudaStreamCreateWithFlags(void **s, unsigned flags) { *s = new_handle(); SAY("cudaStreamCreate %p\n", *s); return 0; }
int cudaStreamCreateWithPriority(void **s, unsigned flags, int p) { return cudaStreamCreateWithFlags(s, flags); }
int cudaStreamCreate(void **s) { return cudaStreamCreateWithFlags(s, 0); }
int cudaDeviceGetStreamPriorityRange(int *least, int *most) { *least = 0; *most = -5; return 0; }
int cudaStreamSynchronize(void *s) { SAY("cudaStreamSynchronize stream %p\n", s); return forbidden("cudaStreamSynchronize", s); }
int cudaDeviceSynchronize(void) { SAY("cudaDeviceSynchronize\n"); return forbidden("cudaDeviceSynchronize", captured_); }
int cudaEventCreateWithFlags(void **e, unsigned flags) { *e = new_handle(); return 0; }
int cudaEventCreate(void **e) { return cudaEventCreateWithFlags(e, 0); }
int cudaEventRecord(void *e, void *s) { SAY("cudaEventRecord stream %p\n", s); return 0; }
int cudaEventRecordWithFlags(void *e, void *s, unsigned f) { return cudaEventRecord(e, s); }
int cudaEventSynchronize(void *e) { SAY("cudaEventSynchronize\n"); return forbidden("cudaEventSynchronize", 0); }
int cudaEventElapsedTime(float *ms, void *a, void *b) { *ms = 0.01f; return 0; }
int cudaStreamWaitEvent(void *s, void *e, unsigned f) { SAY("cudaStreamWaitEvent stream %p\n", s); return 0; }
int cudaStreamBeginCapture(void *s, int mode) {
  capturing_ = 1; captured_ = s;
  SAY("cudaStreamBeginCapture stream %p mode %d\n", s, mode);
  return 0;
}
int cudaStreamEndCapture(void *s, void **g) {
  capturing_ = 0; *g = new_handle();
  SAY("cudaStreamEndCapture stream %p\n", s);
  return 0;
}
int cudaStreamIsCapturing(void *s, int *status) { *status = capturing_; return 0; }
int cudaStreamGetCaptureInfo(void *s, int *status, unsigned long long *id, void **g, void *deps, void *edges, size_t *n) {
  *status = capturing_;
  if (id) *id = capturing_;
  if (g) *g = 0;
  if (n) *n = 0;
  return 0;
}
int cudaThreadExchangeStreamCaptureMode(int *mode) { int was = relaxed_ ? 2 : 0; relaxed_ = *mode == 2; *mode = was; return 0; }
int cudaGraphInstantiate(void **e, void *g, unsigned long long f) {
  *e = new_handle();
  SAY("cudaGraphInstantiate %p\n", *e);
  return 0;
}
int cudaGraphInstantiateWithFlags(void **e, void *g, unsigned long long f) { return cudaGraphInstantiate(e, g, f); }
int cudaGraphGetNodes(void *g, void **nodes, size_t *n) { *n = 1; return 0; }
int cudaGraphLaunch(void *e, void *s) { SAY("cudaGraphLaunch %p stream %p\n", e, s); return 0; }

/* Kernels. */
typedef struct { unsigned x, y, z; } Size;
static __thread struct { Size grid, block; size_t shared; void *stream; } call_;
unsigned __cudaPushCallConfiguration(Size grid, Size block, size_t shared, void *s) {
  call_.grid = grid; call_.block = block; call_.shared = shared; call_.stream = s;
  return 0;
}
int __cudaPopCallConfiguration(Size *grid, Size *block, size_t *shared, void **s) {
  *grid = call_.grid; *block = call_.block; *shared = call_.shared; *s = call_.stream;
  return 0;
}
int cudaLaunchKernel(const void *f, Size g, Size b, void **a, size_t n, void *s) { imitation_kernel(s); return 0; }
int __cudaLaunchKernel(const void *f, Size g, Size b, void **a, size_t n, void *s) { imitation_kernel(s); return 0; }
int cudaLaunchCooperativeKernel(const void *f, Size g, Size b, void **a, size_t n, void *s) { imitation_kernel(s); return 0; }
int cudaLaunchKernelExC(const struct cudaLaunchConfig_st *c, const void *f, void **a) { imitation_kernel(c->stream); return 0; }
int cudaLaunchHostFunc(void *s, void (*f)(void *), void *data) { SAY("cudaLaunchHostFunc stream %p\n", s); f(data); return 0; }
void *__cudaRegisterFatBinary(void *p) { static void *handle; return &handle; }
int cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *f) {
  memset(a, 0, sizeof *a);
  a->maxThreadsPerBlock = 1024; a->numRegs = 32; a->binaryVersion = a->ptxVersion = 90;
  return 0;
}
int cudaOccupancyMaxActiveBlocksPerMultiprocessor(int *n, const void *f, int b, size_t m) { *n = 2; return 0; }
int cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int *n, const void *f, int b, size_t m, unsigned x) { *n = 2; return 0; }
