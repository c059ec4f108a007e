// Calls one kernel of a shared library without TVM: kernel_host LIBRARY KERNEL TENSORS TYPE:SIDExSIDE...
//
// TENSORS holds the arguments' data one after another, and gets back what they hold after the call. Around each lie
// bytes of 0xff, NaN to whoever reads them; a kernel that has written any ends the program with status 2.

#include <dlfcn.h>
#include <tvm/ffi/c_api.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <map>
#include <string>
#include <utility>
#include <vector>

namespace {

constexpr size_t kGuard = 256;
// More than one, in turns: every kernel must cut its work as it does for a pool of threads.
constexpr int kTasks = 3;

[[noreturn]] void Fail(const std::string& reason, int status = 1) {
  std::cerr << reason << "\n";
  std::exit(status);
}

struct ParallelEnv {
  void* sync_handle;
  int32_t num_task;
};

// What a kernel library calls of TVM's runtime (tvm/runtime/c_backend_api.h): it holds pointers, null until they are set.

int ParallelLaunch(int (*task)(int, ParallelEnv*, void*), void* closure, int tasks) {
  ParallelEnv env{nullptr, tasks == 0 ? kTasks : tasks};
  for (int i = 0; i < env.num_task; ++i) {
    if (int status = task(i, &env, closure)) return status;
  }
  return 0;
}

void* AllocWorkspace(int, int, uint64_t bytes, int, int) { return std::aligned_alloc(64, (bytes + 63) / 64 * 64); }

int FreeWorkspace(int, int, void* workspace) {
  std::free(workspace);
  return 0;
}

template <typename F>
void Provide(void* library, const char* name, F function) {
  if (void* slot = dlsym(library, name)) *static_cast<F*>(slot) = function;
}

struct Tensor {
  std::vector<int64_t> shape;
  size_t bytes;
  unsigned char* memory;
  DLTensor view;

  explicit Tensor(const std::string& description) {
    size_t at = description.find(':');
    const std::string type = description.substr(0, at);
    const std::map<std::string, std::pair<uint8_t, uint8_t>> known = {
        {"float32", {kDLFloat, 4}}, {"int32", {kDLInt, 4}}, {"uint16", {kDLUInt, 2}}, {"int8", {kDLInt, 1}}};
    if (!known.count(type)) Fail("a tensor of " + description);
    const uint8_t code = known.at(type).first, bits = 8 * known.at(type).second;
    bytes = known.at(type).second;
    while (at != std::string::npos) {
      shape.push_back(std::stoll(description.substr(at + 1)));
      bytes *= shape.back();
      at = description.find('x', at + 1);
    }
    memory = static_cast<unsigned char*>(std::aligned_alloc(64, (bytes + 2 * kGuard + 63) / 64 * 64));
    std::memset(memory, 0xff, bytes + 2 * kGuard);
    view = {Data(), {kDLCPU, 0}, static_cast<int32_t>(shape.size()), {code, bits, 1}, nullptr, nullptr, 0};
  }

  char* Data() const { return reinterpret_cast<char*>(memory + kGuard); }

  bool Whole() const {
    for (size_t i = 0; i < kGuard; ++i) {
      if (memory[i] != 0xff || memory[kGuard + bytes + i] != 0xff) return false;
    }
    return true;
  }
};

}  // namespace

// A kernel says with it why it refuses its arguments.
extern "C" void TVMFFIErrorSetRaisedFromCStrParts(const char* kind, const char** parts, int32_t count) {
  std::cerr << kind << ": ";
  for (int i = 0; i < count; ++i) std::cerr << (parts[i] ? parts[i] : "");
  std::cerr << "\n";
}

int main(int argc, char** argv) {
  if (argc < 5) Fail("usage: kernel_host LIBRARY KERNEL TENSORS TYPE:SIDExSIDE...");
  void* library = dlopen(argv[1], RTLD_NOW);
  if (!library) Fail(dlerror());
  Provide(library, "__TVMBackendParallelLaunch", &ParallelLaunch);
  Provide(library, "__TVMBackendAllocWorkspace", &AllocWorkspace);
  Provide(library, "__TVMBackendFreeWorkspace", &FreeWorkspace);
  auto kernel = reinterpret_cast<TVMFFISafeCallType>(dlsym(library, (std::string("__tvm_ffi_") + argv[2]).c_str()));
  if (!kernel) Fail(dlerror());

  std::vector<Tensor> tensors(argv + 4, argv + argc);
  std::vector<TVMFFIAny> arguments;
  std::fstream file(argv[3], std::ios::in | std::ios::out | std::ios::binary);
  for (Tensor& tensor : tensors) {
    file.read(tensor.Data(), tensor.bytes);
    tensor.view.shape = tensor.shape.data();
    TVMFFIAny argument{};
    argument.type_index = kTVMFFIDLTensorPtr;
    argument.v_ptr = &tensor.view;
    arguments.push_back(argument);
  }
  if (!file) Fail("there is less data than the tensors hold");

  TVMFFIAny result{};
  if (kernel(nullptr, arguments.data(), static_cast<int32_t>(arguments.size()), &result)) Fail("the kernel failed");

  file.seekp(0);
  for (const Tensor& tensor : tensors) {
    if (!tensor.Whole()) Fail("the kernel wrote around a tensor of " + std::to_string(tensor.bytes) + " bytes", 2);
    file.write(tensor.Data(), tensor.bytes);
  }
  file.flush();
  return file ? 0 : 1;
}
