// Runs kernels.cu on the host. The threads of a block are coroutines that take turns at barriers alone, in an order of the caller's choice:
// what a missing barrier would leave to chance on a device, the order decides here. Blocks run one after another.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <random>
#include <string>
#include <ucontext.h>
#include <vector>

struct Index {
  unsigned x;
};
static Index blockIdx, threadIdx, blockDim;
static ucontext_t scheduler, *running;
[[gnu::noinline]] static void __syncthreads() { swapcontext(running, &scheduler); }

#define __global__
#define __device__
#define __shared__ static
#include KERNELS

static std::function<void()> body;
static std::vector<char> finished;
static void thread_main() {
  body();
  finished[threadIdx.x] = 1;
}

[[gnu::noinline]] static void prepare(ucontext_t *context, char *stack, size_t size) {
  getcontext(context);
  context->uc_stack.ss_sp = stack;
  context->uc_stack.ss_size = size;
  context->uc_link = &scheduler;
  makecontext(context, thread_main, 0);
}

// Whether all threads left the block together.
static bool run_block(unsigned threads, unsigned order, std::mt19937 &random) {
  constexpr size_t stack = 64 << 10;
  static std::vector<std::unique_ptr<char[]>> stacks;
  while (stacks.size() < threads) stacks.emplace_back(new char[stack]);
  std::vector<ucontext_t> contexts(threads);
  std::vector<unsigned> turn(threads);
  finished.assign(threads, 0);
  for (unsigned t = 0; t < threads; t++) {
    turn[t] = order == 1 ? threads - 1 - t : t;
    prepare(&contexts[t], stacks[t].get(), stack);
  }
  for (;;) {
    if (order > 1) std::shuffle(turn.begin(), turn.end(), random);
    for (unsigned t : turn) {
      threadIdx.x = t;
      running = &contexts[t];
      swapcontext(&scheduler, running);
    }
    const long left = std::count(finished.begin(), finished.end(), 1);
    if (left == (long)threads) return true;
    if (left) return false; // some wait at a barrier that others never reach
  }
}

template <class Arguments>
static int run(void (*kernel)(Arguments), const void *words, int count, unsigned blocks, unsigned threads, unsigned order) {
  if (count * 8u != sizeof(Arguments)) return 2;
  Arguments arguments;
  std::memcpy(&arguments, words, sizeof arguments);
  std::mt19937 random(order);
  blockDim.x = threads;
  body = [=] { kernel(arguments); };
  for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
    if (!run_block(threads, order, random)) return 3;
  return 0;
}

// 0; 1: no such kernel; 2: it takes another number of words; 3: threads part at a barrier. order: 0 ascending, 1 descending, else shuffled.
extern "C" int launch(const char *name, const void *words, int count, unsigned blocks, unsigned threads, unsigned order) {
  const std::string kernel = name;
#define TRY(k) if (kernel == #k) return run(k, words, count, blocks, threads, order)
  TRY(jboost_step_pgd_l2);
  TRY(jboost_step_pgd_linf);
  TRY(jboost_step_sgld);
  TRY(jboost_admit);
  TRY(jboost_collect);
  TRY(jboost_to_float);
  TRY(probe_philox);
  TRY(probe_normals);
  TRY(probe_bowl);
  return 1;
}
