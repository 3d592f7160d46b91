/* libcuda: the driver of the GPU that runtime.c imitates, for those who call it themselves: Triton, packages, pycuda. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uintptr_t handle_ = 0x100000;
static void *new_handle(void) { return (void *)__sync_add_and_fetch(&handle_, 16); }

/* The runtime's function of that name, so that both write one log and share memory, streams and captures. */
#define RUNTIME(name, type, arguments, ...) do { \
    int (*f) type = (int (*) type)dlsym(RTLD_DEFAULT, name); \
    return f ? f arguments : 999; } while (0)

int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int *v) { *v = 13000; return 0; }
int cuDeviceGetCount(int *n) { *n = 1; return 0; }
int cuDeviceGet(int *d, int i) { *d = i; return 0; }
int cuDeviceGetName(char *s, int n, int d) { strncpy(s, "NVIDIA H200", n); return 0; }
int cuDeviceTotalMem_v2(size_t *n, int d) { *n = 150ull << 30; return 0; }
int cuDeviceGetAttribute(int *v, int what, int d) {
  switch (what) { /* CUdevice_attribute */
    case 1: *v = 1024; break;            /* threads a block */
    case 8: *v = 49152; break;           /* shared memory a block */
    case 10: *v = 32; break;             /* warp */
    case 12: case 82: *v = 65536; break; /* registers a block, a multiprocessor */
    case 16: *v = 132; break;            /* multiprocessors */
    case 38: *v = 60 << 20; break;       /* L2 */
    case 39: *v = 2048; break;           /* threads a multiprocessor */
    case 75: *v = 9; break;              /* compute capability */
    case 76: *v = 0; break;
    case 81: *v = 233472; break;         /* shared memory a multiprocessor */
    case 97: *v = 232448; break;         /* shared memory a block, opted in */
    default: *v = 1;
  }
  return 0;
}
int cuDeviceComputeCapability(int *major, int *minor, int d) { *major = 9; *minor = 0; return 0; }
int cuDevicePrimaryCtxGetState(int d, unsigned *flags, int *active) { *flags = 0; *active = 1; return 0; }
int cuDevicePrimaryCtxRetain(void **c, int d) { *c = (void *)0x77; return 0; }
int cuCtxGetCurrent(void **c) { *c = (void *)0x77; return 0; }
int cuCtxGetDevice(int *d) { *d = 0; return 0; }
int cuCtxPopCurrent_v2(void **c) { if (c) *c = (void *)0x77; return 0; }
int cuCtxGetApiVersion(void *c, unsigned *v) { *v = 13000; return 0; }
int cuGetErrorString(int e, const char **s) { *s = "imitated"; return 0; }
int cuGetErrorName(int e, const char **s) { *s = "imitated"; return 0; }
int cuGetProcAddress_v2(const char *name, void **f, int version, uint64_t flags, int *status) {
  char later[128];
  snprintf(later, sizeof later, "%s_v2", name);
  *f = dlsym(RTLD_DEFAULT, later);
  if (!*f) *f = dlsym(RTLD_DEFAULT, name);
  if (status) *status = *f ? 0 : 1;
  return *f ? 0 : 500;
}

int cuMemGetInfo_v2(size_t *left, size_t *all) { *left = 140ull << 30; *all = 150ull << 30; return 0; }
int cuMemAlloc_v2(void **p, size_t n) { RUNTIME("cudaMalloc", (void **, size_t), (p, n)); }
int cuMemFree_v2(void *p) { RUNTIME("cudaFree", (void *), (p)); }
int cuMemHostAlloc(void **p, size_t n, unsigned flags) { RUNTIME("cudaHostAlloc", (void **, size_t, unsigned), (p, n, flags)); }
int cuMemFreeHost(void *p) { RUNTIME("cudaFreeHost", (void *), (p)); }
int cuMemcpyHtoD_v2(void *to, const void *from, size_t n) {
  RUNTIME("cudaMemcpy", (void *, const void *, size_t, int), (to, from, n, 1));
}
int cuMemcpyDtoH_v2(void *to, const void *from, size_t n) {
  RUNTIME("cudaMemcpy", (void *, const void *, size_t, int), (to, from, n, 2));
}
int cuMemcpyHtoDAsync_v2(void *to, const void *from, size_t n, void *s) {
  RUNTIME("cudaMemcpyAsync", (void *, const void *, size_t, int, void *), (to, from, n, 1, s));
}
int cuMemcpyDtoHAsync_v2(void *to, const void *from, size_t n, void *s) {
  RUNTIME("cudaMemcpyAsync", (void *, const void *, size_t, int, void *), (to, from, n, 2, s));
}
int cuMemcpyDtoDAsync_v2(void *to, const void *from, size_t n, void *s) {
  RUNTIME("cudaMemcpyAsync", (void *, const void *, size_t, int, void *), (to, from, n, 3, s));
}
int cuMemsetD8_v2(void *at, unsigned char v, size_t n) { RUNTIME("cudaMemset", (void *, int, size_t), (at, v, n)); }
int cuMemsetD8Async(void *at, unsigned char v, size_t n, void *s) {
  RUNTIME("cudaMemsetAsync", (void *, int, size_t, void *), (at, v, n, s));
}
int cuPointerGetAttribute(void *data, int what, void *p) {
  int (*kind)(const void *) = dlsym(RTLD_DEFAULT, "imitation_kind");
  if (what == 3 || what == 4) *(void **)data = p; /* device and host pointer */
  else *(int *)data = kind ? kind(p) : 0;
  return 0;
}

int cuStreamCreate(void **s, unsigned flags) { RUNTIME("cudaStreamCreateWithFlags", (void **, unsigned), (s, flags)); }
int cuStreamSynchronize(void *s) { RUNTIME("cudaStreamSynchronize", (void *), (s)); }
int cuCtxSynchronize(void) { RUNTIME("cudaDeviceSynchronize", (void), ()); }
int cuStreamWaitEvent(void *s, void *e, unsigned f) { RUNTIME("cudaStreamWaitEvent", (void *, void *, unsigned), (s, e, f)); }
int cuEventCreate(void **e, unsigned flags) { *e = new_handle(); return 0; }
int cuEventRecord(void *e, void *s) { RUNTIME("cudaEventRecord", (void *, void *), (e, s)); }
int cuEventSynchronize(void *e) { RUNTIME("cudaEventSynchronize", (void *), (e)); }
int cuStreamBeginCapture_v2(void *s, int mode) { RUNTIME("cudaStreamBeginCapture", (void *, int), (s, mode)); }
int cuStreamEndCapture(void *s, void **g) { RUNTIME("cudaStreamEndCapture", (void *, void **), (s, g)); }
int cuGraphInstantiateWithFlags(void **e, void *g, unsigned long long f) {
  RUNTIME("cudaGraphInstantiate", (void **, void *, unsigned long long), (e, g, f));
}
int cuGraphLaunch(void *e, void *s) { RUNTIME("cudaGraphLaunch", (void *, void *), (e, s)); }

int cuModuleLoad(void **m, const char *file) { *m = new_handle(); return 0; }
int cuModuleLoadData(void **m, const void *image) { *m = new_handle(); return 0; }
int cuModuleLoadDataEx(void **m, const void *image, unsigned n, void *names, void *values) { *m = new_handle(); return 0; }
int cuModuleGetFunction(void **f, void *m, const char *name) { *f = new_handle(); return 0; }
int cuFuncGetAttribute(int *v, int what, void *f) { *v = what == 0 ? 1024 : what == 4 ? 32 : 0; return 0; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *n, void *f, int b, size_t m) { *n = 2; return 0; }
static int launch(void *s) {
  void (*kernel)(void *) = dlsym(RTLD_DEFAULT, "imitation_kernel");
  if (kernel) kernel(s);
  return 0;
}
typedef struct { unsigned grid[3], block[3], shared; void *stream; void *attributes; unsigned count; } Config;
int cuLaunchKernel(
    void *f, unsigned a, unsigned b, unsigned c, unsigned x, unsigned y, unsigned z, unsigned m, void *s, void **p, void **e) {
  return launch(s);
}
int cuLaunchKernelEx(const Config *c, void *f, void **p, void **e) { return launch(c->stream); }
