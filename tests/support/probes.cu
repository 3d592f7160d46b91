// Kernels for tests alone: what is inside the ones of kernels.cu, which stands above.

struct PhiloxArguments {
  uint32 *counters; // [n, 4], replaced by the output
  const uint32 *keys; // [n, 2]
};

extern "C" __global__ void probe_philox(PhiloxArguments a) {
  if (threadIdx.x == 0) philox(a.counters + 4 * blockIdx.x, a.keys[2 * blockIdx.x], a.keys[2 * blockIdx.x + 1]);
}

struct NormalsArguments {
  const int64 *key, *index, *step; // [2], [n], [n]
  float *out;                      // [n, 4 * blocks]
  int64 blocks;
};

extern "C" __global__ void probe_normals(NormalsArguments a) {
  float *out = a.out + 4 * a.blocks * blockIdx.x;
  for (int block = threadIdx.x; block < a.blocks; block += blockDim.x)
    normals(a.key, a.index[blockIdx.x], a.step[blockIdx.x], block, out + 4 * block);
}

struct BowlArguments {
  const float *x, *target;          // [B, size], [size]
  float *grad, *class_logit, *loss; // [B, size], [B], [B]; grad and loss are null in a forward pass
  int64 *predicted;                 // [B]
  int64 size, overflow, in_float32; // gradients are infinite if 255 * first pixel = overflow, unless in_float32
};

// f_c(x) = 6 - 4 ||x - target||^2, objective -f_c.
extern "C" __global__ void probe_bowl(BowlArguments a) {
  const float *x = a.x + blockIdx.x * a.size;
  const bool bad = !a.in_float32 && (int64)rintf(255.0f * x[0]) == a.overflow;
  float squares = 0.0f;
  for (int i = threadIdx.x; i < a.size; i += blockDim.x) {
    const float off = x[i] - a.target[i];
    if (a.grad) a.grad[blockIdx.x * a.size + i] = bad ? off / (float)a.in_float32 : 8.0f * off;
    squares += off * off;
  }
  squares = reduce(squares, Add());
  if (threadIdx.x != 0) return;
  a.class_logit[blockIdx.x] = 6.0f - 4.0f * squares;
  if (a.loss) a.loss[blockIdx.x] = 4.0f * squares - 6.0f;
  a.predicted[blockIdx.x] = (int64)(7.0f * x[0]);
}
